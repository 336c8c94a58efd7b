import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { type Guest, until } from "./test_world.ts";

/** Somebody who sends. */
type Where = Pick<Guest, "ns">;
/** Whether one ping is answered within a second. */
export async function pings(from: Where, to: string, ...more: string[]): Promise<boolean> {
  return (await from.ns.try("ping", "-n", "-c", "1", "-W", "1", ...more, to)).ok;
}
/** Waits until a ping is answered. */
export async function reaches(from: Where, to: string, ...more: string[]): Promise<void> {
  await until(`${to} answers`, () => pings(from, to, ...more));
}
/** Nothing comes back, although the network has long settled: three tries, as one may be lost by chance. */
export async function never(from: Where, to: string, ...more: string[]): Promise<void> {
  for (let i = 0; i < 3; i++) assert.ok(!await pings(from, to, ...more), `${to} answered and should not`);
}

/** A web server in a namespace until disposed. */
export function serve({ ns }: Where, port: number): AsyncDisposable {
  const child = ns.spawn("busybox", "httpd", "-f", "-p", String(port), "-h", "/usr/share/ovn");
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.stdout.cancel();
      await child.status;
    },
  };
}
/** Whether a page of 30 KB comes from there. */
export async function fetches({ ns }: Where, to: string): Promise<boolean> {
  const code = `const answer = await fetch("http://${to}/ovn-nb.ovsschema", { signal: AbortSignal.timeout(2000) });
    if ((await answer.text()).length < 30_000) Deno.exit(1);`;
  return (await ns.try(Deno.execPath(), "eval", code)).ok;
}

/** Answers what it is told, on port 9000. */
export const echoServer =
  `for await (const c of Deno.listen({ port: 9000 })) c.readable.pipeTo(c.writable).catch(() => {});`;

/** Whether a connection can be made. */
export async function connects({ ns }: Where, host: string, port: number): Promise<boolean> {
  const code = `const late = setTimeout(() => Deno.exit(1), 1500);
    (await Deno.connect({ hostname: "${host}", port: ${port} })).close(); clearTimeout(late);`;
  return (await ns.try(Deno.execPath(), "eval", code)).ok;
}

/** One connection that stays open; each word must come back. */
export async function openTalk(from: Where, host: string, port: number) {
  await until("the server answers", () => connects(from, host, port));
  const child = new Deno.Command("ip", {
    args: ["netns", "exec", from.ns.name, "busybox", "nc", host, String(port)],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const writer = child.stdin.getWriter();
  const text = new TextEncoder();
  let heard = "";
  const reading = (async () => {
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) heard += part;
  })();
  return {
    async say(word: string): Promise<void> {
      await writer.write(text.encode(`${word}\n`));
      for (const deadline = performance.now() + 5_000; !heard.includes(`${word}\n`);) {
        if (performance.now() > deadline) throw new Error(`"${word}" did not come back`);
        await systemClock.sleep(20);
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await Promise.all([child.status, reading, writer.close().catch(() => {})]);
    },
  };
}
