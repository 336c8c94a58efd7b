import type { CommandContext, StricliProcess } from "@stricli/core";

/** The terminal as a dependency; tests give their own. */
export interface Io {
  /** Standard output: results only. */
  out(text: string): void;
  /** Standard error: progress, warnings, errors. */
  err(text: string): void;
  readonly interactive: boolean;
  env(name: string): string | undefined;
  /** A line typed by the person; undefined when input ended. */
  ask(question: string): string | undefined;
  readonly signal: AbortSignal;
}

/** What every command gets as `this`. */
export interface UcContext extends CommandContext {
  readonly io: Io;
  readonly process: StricliProcess;
}

const encoder = new TextEncoder();

function writeAll(stream: { writeSync(data: Uint8Array): number }, text: string): void {
  let bytes = encoder.encode(text);
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(stream.writeSync(bytes));
    } catch (error) {
      // The reader went away (`uc vm list | head`): nobody is left to write to.
      if (error instanceof Deno.errors.BrokenPipe) Deno.exit(141);
      throw error;
    }
  }
}

/** The process's own terminal. */
export function terminalIo(signal: AbortSignal): Io {
  return {
    out: (text) => writeAll(Deno.stdout, text),
    err: (text) => writeAll(Deno.stderr, text),
    interactive: Deno.stdin.isTerminal() && Deno.stderr.isTerminal(),
    env: (name) => Deno.env.get(name),
    ask(question) {
      writeAll(Deno.stderr, question);
      const buffer = new Uint8Array(4096);
      const n = Deno.stdin.readSync(buffer);
      return n === null ? undefined : new TextDecoder().decode(buffer.subarray(0, n)).replace(/\r?\n$/, "");
    },
    signal,
  };
}
