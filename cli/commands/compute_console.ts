import { fault } from "@ultracloud/base";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { command, parseInteger } from "../frame/command.ts";
import type { Run } from "../frame/command.ts";
import { vmArg, vmNames } from "./_compute_shared.ts";

/** Ctrl-]: what comes after it is for `uc`. */
const escapeKey = 0x1d;
/** Bytes typed ahead of a console that does not take them. */
const aheadBytesMax = 64 * 1024;
/** A script's part is over when the guest has said nothing for this long after the last of its input. */
const silenceMs = 2_000;
/** History shown when somebody attaches. */
const attachHistoryBytes = 8 * 1024;

const help = "\r\n[Ctrl-] then d: detach, r: tell the guest's shell this terminal's size, Ctrl-]: that key itself]\r\n";

/** What was typed, told apart: bytes for the guest, and what Ctrl-] asks of `uc`. */
export class Keys {
  #escaped = false;

  /** The bytes for the guest, in order with the commands between them. */
  take(bytes: Uint8Array): { readonly send: Uint8Array; readonly commands: readonly ("detach" | "size" | "help")[] } {
    const send: number[] = [];
    const commands: ("detach" | "size" | "help")[] = [];
    for (const byte of bytes) {
      if (!this.#escaped) {
        if (byte === escapeKey) this.#escaped = true;
        else send.push(byte);
        continue;
      }
      this.#escaped = false;
      if (byte === escapeKey) send.push(escapeKey);
      else if (byte === 0x64 || byte === 0x2e) {
        // What follows is typed to nobody.
        return { send: Uint8Array.from(send), commands: [...commands, "detach"] };
      } else commands.push(byte === 0x72 ? "size" : "help");
    }
    return { send: Uint8Array.from(send), commands };
  }
}

/** Reads the console from an offset on and prints it until the stream or the signal ends. */
async function show(
  { session, io }: Run,
  vm: string,
  offset: bigint,
  signal: AbortSignal,
  heard: () => void = () => {},
): Promise<void> {
  const client = session.client(VmService, "plasmavmc");
  const decoder = new TextDecoder();
  const stream = client.followConsole({ project: session.project, vm, offset }, { signal });
  for await (const part of stream) {
    io.out(decoder.decode(part.data, { stream: true }));
    heard();
  }
}

/** Prints what the ring holds from an offset on. */
async function print({ session, io }: Run, vm: string, from: bigint): Promise<void> {
  const client = session.client(VmService, "plasmavmc");
  const decoder = new TextDecoder();
  for (let offset = from;;) {
    const part = await client.getConsoleLog({ project: session.project, vm, offset });
    if (part.data.length === 0) return;
    io.out(decoder.decode(part.data, { stream: true }));
    offset = part.nextOffset;
  }
}

/** Types what comes from standard input, piece by piece and in order, until it ends or Ctrl-] d. */
async function type({ session, io }: Run, vm: string, signal: AbortSignal): Promise<"detached" | "input ended"> {
  const client = session.client(VmService, "plasmavmc");
  const { project } = session;
  const keys = new Keys();
  const send = async (data: Uint8Array) => {
    for (let at = 0; at < data.length; at += aheadBytesMax) {
      await client.writeConsole({ project, vm, data: data.subarray(at, at + aheadBytesMax) }, { signal });
    }
  };
  const reader = Deno.stdin.readable.getReader();
  const leave = () => void reader.cancel().catch(() => {});
  signal.addEventListener("abort", leave, { once: true });
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return "input ended";
      const { send: bytes, commands } = keys.take(value);
      if (bytes.length > 0) await send(bytes);
      for (const asked of commands) {
        if (asked === "detach") return "detached";
        if (asked === "help") io.err(help);
        else {
          const { columns, rows } = Deno.consoleSize();
          await send(new TextEncoder().encode(`stty rows ${rows} cols ${columns}\r`));
        }
      }
    }
  } finally {
    signal.removeEventListener("abort", leave);
    leave();
  }
}

/** The person's terminal becomes the guest's. */
async function attach(run: Run, vm: string, offset: bigint | undefined): Promise<void> {
  const { io } = run;
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, io.signal]);
  const raw = Deno.stdin.isTerminal();
  if (raw) {
    io.err(`Attached to ${vm}. Ctrl-] d detaches, Ctrl-] ? tells more.\r\n`);
    Deno.stdin.setRaw(true);
  }
  try {
    let heardMs = performance.now();
    const shown = show(run, vm, offset ?? BigInt(-attachHistoryBytes), signal, () => heardMs = performance.now());
    const typed = type(run, vm, signal);
    const first = await Promise.race([shown.then(() => "closed" as const), typed]);
    if (first === "input ended") {
      // A script that has said all still wants to read the answer.
      heardMs = performance.now();
      while (!signal.aborted && performance.now() - heardMs < silenceMs) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    stop.abort();
    if (raw) {
      Deno.stdin.setRaw(false);
      io.err(`\r\nDetached from ${vm}\n`);
    }
  }
}

interface ConsoleFlags {
  readonly follow: boolean;
  readonly log: boolean;
  readonly attach: boolean;
  readonly offset?: number;
}

export const vmConsole = command<ConsoleFlags, [string]>({
  brief: "The serial console: attached on a terminal, else its history",
  details:
    "On a terminal it is interactive: Ctrl-] d detaches and leaves the guest running, Ctrl-] r tells the guest's " +
    "shell the size of the terminal, Ctrl-] twice types that key. Several people may read and type at once. With " +
    "--log, or when the output is no terminal, it prints what the ring holds and ends; --follow goes on reading.",
  args: vmArg,
  flags: {
    follow: { kind: "boolean", default: false, brief: "Only read, and go on until Ctrl-C" },
    log: { kind: "boolean", default: false, brief: "Only print the history" },
    attach: { kind: "boolean", default: false, brief: "Type what comes from standard input, terminal or not" },
    offset: {
      kind: "parsed",
      parse: parseInteger,
      optional: true,
      brief: "Byte to start at; negative counts from the end",
    },
  },
  complete: vmNames,
  async run(run, flags, vm) {
    if ([flags.follow, flags.log, flags.attach].filter(Boolean).length > 1) {
      throw fault("invalid_argument", "flags_exclude", "Cannot use --follow, --log and --attach together: wanted one");
    }
    const offset = flags.offset === undefined ? undefined : BigInt(flags.offset);
    if (flags.follow) return await show(run, vm, offset ?? 0n, run.io.signal);
    const terminal = run.io.interactive && Deno.stdout.isTerminal();
    if (flags.attach || (terminal && !flags.log)) return await attach(run, vm, offset);
    await print(run, vm, offset ?? 0n);
  },
});
