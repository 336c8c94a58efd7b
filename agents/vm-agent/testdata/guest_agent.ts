import type { Vms } from "../vms.ts";
import { until } from "./tiny_image.ts";

/**
 * User data that takes the tiny guest's serial line from its login and runs each line `<number> <command>` as root.
 * It answers `UCANS <number> <code> <digest> <output>`; what comes damaged over the line is asked for again.
 */
export const guestAgent = String.raw`#!/bin/sh
(
  until killall -STOP getty 2>/dev/null; do sleep 0.1; done
  exec </dev/ttyS0 >/dev/ttyS0 2>&1
  stty sane -echo
  counter=0
  echo UCAGENT_READY
  while read -r id cmd; do
    if [ "$id" != "$last" ]; then
      last=$id
      out=$(eval "$cmd" 2>&1 </dev/null); code=$?
      text=$(printf %s "$out" | base64 | tr -d '\n')
      sum=$(printf %s "$text" | md5sum | cut -c1-32)
    fi
    echo "UCANS $id $code $sum $text."
  done
) &
`;

/** A line may be damaged on its way, so it is said again after this long. */
const answerMs = 10_000;
const triesMax = 12;

export interface Guest {
  /** Runs a command in the guest; answers what it printed. Throws when it fails. */
  run(command: string): Promise<string>;
  /** The same on a VM that is served by another worker by now. */
  on(vms: Pick<Vms, "machine" | "readConsole">): Guest;
}

/** Waits for the agent in the guest, whose line is then this caller's. */
export async function openGuest(
  vms: Pick<Vms, "machine" | "readConsole">,
  vmId: string,
  options: { readonly from?: number } = {},
): Promise<Guest> {
  let number = Math.floor(performance.now()) % 100_000;
  await consoleText(vms, vmId, options.from ?? 0, /UCAGENT_READY/, 120_000);
  const on = (worker: Pick<Vms, "machine" | "readConsole">): Guest => ({
    async run(command) {
      const id = ++number;
      // The agent runs a number once and says its answer again when it hears the number again.
      for (let tries = 0;; tries++) {
        const { nextOffset } = await readFrom(worker, vmId, -1);
        await worker.machine(vmId).serial.write(new TextEncoder().encode(`${id} ${command}\n`));
        const answer = new RegExp(`UCANS ${id} [^.]*\\.`);
        const text = await consoleText(worker, vmId, nextOffset, answer, answerMs).catch(() => "");
        const [, code, sum, body] = /UCANS \d+ (\d+) (\S+) ([^.]*)\.$/.exec(text) ?? [];
        const digest = body === undefined ? "" : await md5(body.replace(/[\r\n]/g, ""));
        if (code !== undefined && digest === sum) {
          const output = new TextDecoder().decode(Uint8Array.from(atob(body!), (char) => char.charCodeAt(0)));
          if (code !== "0") throw new Error(`the guest answered ${code} to ${command}: ${output}`);
          return output;
        }
        if (tries >= triesMax) throw new Error(`the guest does not answer to ${command}: ${text}`);
      }
    },
    on,
  });
  return on(vms);
}

async function readFrom(vms: Pick<Vms, "readConsole">, vmId: string, offset: number) {
  const signal = AbortSignal.timeout(30_000);
  return await vms.readConsole(vmId, { offset, limit: 1 << 20, waitMs: 0, signal });
}

/** The part of the console's text after `offset` that matches. */
export async function consoleText(
  vms: Pick<Vms, "readConsole">,
  vmId: string,
  offset: number,
  pattern: RegExp,
  ms: number,
): Promise<string> {
  return await until(`${pattern} on the console`, ms, async () => {
    const { data } = await readFrom(vms, vmId, offset);
    return pattern.exec(new TextDecoder().decode(data))?.[0];
  });
}

async function md5(text: string): Promise<string> {
  const { createHash } = await import("node:crypto");
  return createHash("md5").update(text).digest("hex");
}
