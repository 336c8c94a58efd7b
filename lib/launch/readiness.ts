import { fault } from "@ultracloud/base";
import type { ComponentProcess } from "./spawn.ts";

/** How a component describes itself at /readyz. */
export interface Readiness {
  readonly ready: boolean;
  /** Body of the answer, for people; empty when nothing answered. */
  readonly text: string;
}

/** One look at /readyz; never throws for a component that is not there. */
export async function probeReady(url: string, timeoutMs = 1_000, client?: Deno.HttpClient): Promise<Readiness> {
  try {
    const signal = AbortSignal.timeout(timeoutMs);
    const response = await fetch(`${url}/readyz`, { signal, ...(client ? { client } : {}) });
    return { ready: response.ok, text: await response.text() };
  } catch {
    return { ready: false, text: "" };
  }
}

/** Waits until the component answers ready; fails early, with the end of its log, when its process ends first. */
export async function waitReady(
  url: string,
  options: {
    readonly name: string;
    readonly timeoutMs: number;
    readonly process?: Pick<ComponentProcess, "ended" | "logFile">;
    readonly signal?: AbortSignal;
    /** With the certificates that the component wants to see. */
    readonly client?: Deno.HttpClient;
  },
): Promise<void> {
  const deadline = performance.now() + options.timeoutMs;
  let ended: { code: number } | undefined;
  options.process?.ended.then((status) => ended = status);
  for (;;) {
    options.signal?.throwIfAborted();
    const seen = await probeReady(url, undefined, options.client);
    if (seen.ready) return;
    if (ended) {
      throw fault(
        "unavailable",
        "component_ended",
        `Cannot start ${options.name}: it ended with code ${ended.code}\n${await logTail(options.process?.logFile)}`,
      );
    }
    if (performance.now() > deadline) {
      throw fault(
        "deadline_exceeded",
        "component_not_ready",
        `Cannot wait longer for ${options.name} after ${options.timeoutMs} ms: ${
          seen.text.trim() || "it does not answer"
        }\n${await logTail(
          options.process?.logFile,
        )}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

/** The last lines of a log, for an error message; empty when there is none. */
export async function logTail(file: string | undefined, lines = 12): Promise<string> {
  if (file === undefined) return "";
  try {
    return (await Deno.readTextFile(file)).trimEnd().split("\n").slice(-lines).join("\n");
  } catch {
    return "";
  }
}
