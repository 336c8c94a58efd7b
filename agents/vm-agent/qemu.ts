import { type Clock, Fault, fault } from "@ultracloud/base";
import { connectQmp, type QmpClient } from "@ultracloud/qmp";

/** How long QEMU may take from its start to a monitor that answers. */
const startTimeoutMs = 20_000;
const connectEveryMs = 10;
/** A process that hangs in the kernel longer is not waited for; it does nothing more. */
const killTimeoutMs = 5_000;
const lastWordsBytesMax = 2_048;
export const monitorTimeoutMs = 5_000;

/** Whom a process of ours runs as; undefined: as this agent does. */
export type RunAs = { readonly uid: number; readonly gid: number } | undefined;

/** Programs of QEMU that have a monitor. */
export type EngineProgram = "qemu-system-x86_64" | "qemu-storage-daemon";

/** A process of QEMU with its monitor: started here, or adopted from an agent that is gone. */
export interface Engine {
  readonly monitor: QmpClient;
  readonly pid: number;
  /** How the process ended and what it said; undefined for an adopted one, whose exit nobody here can see. */
  readonly exited: Promise<string> | undefined;
  /** Ends a process that its monitor cannot end, at once. */
  kill(): Promise<void>;
  /** Lets go of the process without ending it. */
  release(): Promise<void>;
}

/**
 * Starts a program in a session of its own, so that it outlives this process, and waits for its monitor. When it ends
 * first, the fault carries its last words.
 */
export async function startEngine(
  program: EngineProgram,
  args: readonly string[],
  at: { readonly qmpSocket: string; readonly runAs: RunAs },
  deps: { readonly clock: Clock },
): Promise<Engine> {
  const child = new Deno.Command(program, {
    args: [...args],
    // Nothing of this process's environment is QEMU's business.
    clearEnv: true,
    detached: true,
    ...at.runAs,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  child.unref();
  const words = new LastWords(child.stderr);
  const exited = child.status.then(async (status) => {
    await words.ended;
    return `${status.signal ?? `code ${status.code}`}${words.text === "" ? "" : `: ${words.text}`}`;
  });
  const deadline = deps.clock.monotonicMs() + startTimeoutMs;
  let over = false;
  const gone = exited.then((how) => {
    over = true;
    return how;
  });
  for (;;) {
    try {
      const monitor = await connectQmp({ path: at.qmpSocket, commandTimeoutMs: monitorTimeoutMs }, deps);
      return {
        monitor,
        pid: child.pid,
        exited,
        kill: () => {
          if (!over) child.kill("SIGKILL");
          return Promise.resolve();
        },
        release: async () => {
          await monitor[Symbol.asyncDispose]();
          await words.cancel();
        },
      };
    } catch (error) {
      if (over) {
        throw fault("failed_precondition", "qemu_failed", `Cannot start QEMU: it ended with ${await gone}`, {
          cause: error,
        });
      }
      const transient = error instanceof Fault && (error.code === "qmp_absent" || error.code === "qmp_disconnected");
      if (!transient || deps.clock.monotonicMs() > deadline) {
        child.kill("SIGKILL");
        await exited;
        throw fault("unavailable", "qemu_unresponsive", "Cannot start QEMU: its monitor does not answer", {
          cause: error,
        });
      }
      await deps.clock.sleep(connectEveryMs);
    }
  }
}

/** Takes over a process that runs already; `qmp_absent` when there is none. */
export async function adoptEngine(
  qmpSocket: string,
  pidFile: string,
  deps: { readonly clock: Clock },
): Promise<Engine> {
  const monitor = await connectQmp({ path: qmpSocket, commandTimeoutMs: monitorTimeoutMs }, deps);
  const pid = Number.parseInt(await Deno.readTextFile(pidFile).catch(() => "0"), 10) || 0;
  return {
    monitor,
    pid,
    exited: undefined,
    kill: () => killByPidFile(pidFile, deps),
    release: async () => await monitor[Symbol.asyncDispose](),
  };
}

/**
 * Ends the process that wrote the pid file, whoever started it, and waits until it has ended. QEMU holds a lock on its
 * pid file for as long as it lives, and pkill signals only while that lock is held, so a pid that belongs to somebody
 * else by now is safe.
 */
export async function killByPidFile(pidFile: string, deps: { readonly clock: Clock }): Promise<void> {
  const deadline = deps.clock.monotonicMs() + killTimeoutMs;
  // A process that has let go of its lock writes to nothing any more.
  while (await signalByPidFile("KILL", pidFile) && deps.clock.monotonicMs() < deadline) {
    await deps.clock.sleep(connectEveryMs);
  }
}

/** False when nobody holds the lock on the pid file. */
async function signalByPidFile(signal: string, pidFile: string): Promise<boolean> {
  const { success } = await new Deno.Command("pkill", {
    args: [`-${signal}`, "--logpidfile", "--pidfile", pidFile],
    clearEnv: true,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).output();
  return success;
}

/** The end of what a process wrote to its stderr. */
class LastWords {
  text = "";
  readonly ended: Promise<void>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
    this.ended = this.#read();
  }

  async cancel(): Promise<void> {
    await this.#reader.cancel();
    await this.ended;
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    try {
      for (;;) {
        const { value, done } = await this.#reader.read();
        if (done) return;
        this.text = (this.text + decoder.decode(value, { stream: true })).slice(-lastWordsBytesMax).trimEnd();
      }
    } catch {
      // The process is gone with its pipe; what was read stands.
    }
  }
}
