import type { Prepared } from "./prepare.ts";
import type { Template } from "../domain/files.ts";

/** Asks once; undefined when it is well, else what is wrong. */
export async function askHealth(template: Template, prepared: Prepared): Promise<string | undefined> {
  const check = template.healthCheck!;
  const signal = AbortSignal.timeout(check.timeoutMs);
  try {
    if (check.kind === "exec") return await exec(check.command, prepared, signal);
    const port = template.ports[check.port]!.port;
    if (check.kind === "tcp") {
      (await Deno.connect({ hostname: "127.0.0.1", port, signal })).close();
      return undefined;
    }
    const answer = await fetch(`http://127.0.0.1:${port}${check.path}`, { signal, redirect: "manual" });
    await answer.body?.cancel();
    return answer.status < 400 ? undefined : `${check.path} answered ${answer.status}`;
  } catch (error) {
    if (signal.aborted) return `no answer within ${check.timeoutMs} ms`;
    return error instanceof Error ? error.message.slice(0, 200) : String(error);
  }
}

async function exec(command: readonly string[], prepared: Prepared, signal: AbortSignal): Promise<string | undefined> {
  const [program, ...args] = command;
  const options = {
    args,
    env: prepared.env,
    clearEnv: true,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
    signal,
  } as const;
  const { success, code, stderr } = await new Deno.Command(program!, options).output();
  if (signal.aborted) return `${program} took too long`;
  const said = new TextDecoder().decode(stderr).trim().split("\n").at(-1)!.slice(0, 200);
  return success ? undefined : `${program} ended with ${code}${said === "" ? "" : `: ${said}`}`;
}
