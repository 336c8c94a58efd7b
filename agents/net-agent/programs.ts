import { fault, utf8 } from "@ultracloud/base";

/** Programs that this agent starts, and no others: component.json grants exactly these. */
export type Program =
  | "ovsdb-tool"
  | "ovsdb-server"
  | "ovs-vswitchd"
  | "ovn-northd"
  | "ovn-controller"
  | "ovn-trace"
  | "ovs-ofctl"
  | "ovsdb-client"
  | "ip"
  | "ethtool";

export interface Daemon {
  readonly pid: number;
  /** How the process ended. */
  readonly exited: Promise<string>;
  kill(signal: Deno.Signal): void;
  /** Keeps this process from ending before the daemon has. */
  ref(): void;
}

/** How programs are run. Tests put a network namespace before each. */
export interface Programs {
  /** Runs to its end; answers its output, or a `program_failed` fault with its last words. */
  run(program: Program, args: readonly string[]): Promise<string>;
  /** Lines that a program writes, until the signal ends it or it ends by itself. */
  follow(program: Program, args: readonly string[], signal: AbortSignal): AsyncIterable<string>;
  /** Starts in a session of its own, so that it outlives this process. */
  daemon(program: Program, args: readonly string[], env: Readonly<Record<string, string>>): Daemon;
}

const lastWordsCharsMax = 400;
/** Longest line that is waited for the end of. */
const lineCharsMax = 65_536;

/** The programs of this host, in the network namespace `netns` when given. */
export function hostPrograms(netns?: string): Programs {
  const command = (program: Program, args: readonly string[]): [string, string[]] =>
    netns === undefined ? [program, [...args]] : ["ip", ["netns", "exec", netns, program, ...args]];
  return {
    async run(program, args) {
      const [file, all] = command(program, args);
      const output = await new Deno.Command(file, { args: all, stdin: "null", stdout: "piped", stderr: "piped" })
        .output();
      if (output.success) return utf8.decode(output.stdout);
      const words = utf8.decode(output.stderr).trim().slice(-lastWordsCharsMax);
      throw fault("failed_precondition", "program_failed", `Cannot run ${program} ${args.join(" ")}: ${words}`);
    },
    async *follow(program, args, signal) {
      signal.throwIfAborted();
      const [file, all] = command(program, args);
      const child = new Deno.Command(file, { args: all, stdin: "null", stdout: "piped", stderr: "piped" }).spawn();
      const end = () => child.kill("SIGTERM");
      signal.addEventListener("abort", end, { once: true });
      // What a program tells about itself goes where its messages go.
      const both = mergeLines([child.stdout, child.stderr]);
      try {
        yield* both;
      } finally {
        signal.removeEventListener("abort", end);
        try {
          child.kill("SIGKILL");
        } catch {
          // It has ended.
        }
        await child.status;
      }
    },
    daemon(program, args, env) {
      const [file, all] = command(program, args);
      const child = new Deno.Command(file, {
        args: all,
        clearEnv: true,
        env: { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ...env },
        detached: true,
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      child.unref();
      let over = false;
      const exited = child.status.then(({ code, signal }) => {
        over = true;
        return signal ?? `code ${code}`;
      });
      return {
        pid: child.pid,
        exited,
        kill: (signal) => {
          if (!over) child.kill(signal);
        },
        ref: () => child.ref(),
      };
    },
  };
}

/** Lines of several streams as they come. */
async function* mergeLines(streams: readonly ReadableStream<Uint8Array<ArrayBuffer>>[]): AsyncGenerator<string> {
  const parts = new ReadableStream<string>({
    async start(controller) {
      await Promise.all(streams.map(async (stream) => {
        for await (const text of stream.pipeThrough(new TextDecoderStream())) controller.enqueue(text);
      })).then(() => controller.close(), (error) => controller.error(error));
    },
  });
  let rest = "";
  for await (const part of parts) {
    const lines = (rest + part).split("\n");
    rest = lines.pop()!.slice(-lineCharsMax);
    yield* lines;
  }
}
