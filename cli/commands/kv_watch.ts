import { fault } from "@ultracloud/base";
import { type KvEvent, KvEventType, WatchService } from "@ultracloud/proto/chainfire/v1";
import { command, parseInteger } from "../frame/command.ts";
import { printable } from "../frame/render.ts";
import {
  asText,
  type Encoding,
  encodingFlag,
  pairOf,
  parseRevision,
  type RangeFlags,
  rangeFlags,
  rangeOf,
  shown,
} from "./_kv_bytes.ts";

interface WatchFlags extends RangeFlags {
  readonly encoding: Encoding;
  readonly fromRevision?: bigint;
  readonly prev: boolean;
  readonly puts: boolean;
  readonly deletes: boolean;
  readonly maxEvents?: number;
}

/** Opened again at once after a stream that told something, later after one that did not. */
const retryMs = 1_000;

/** One change on one line. */
function lineOf(event: KvEvent, encoding: Encoding): string {
  const { kv, prevKv } = event;
  const word = event.type === KvEventType.DELETE ? "DELETE" : "PUT";
  const value = event.type === KvEventType.DELETE ? "" : ` ${quoted(kv!.value, encoding)}`;
  const before = prevKv === undefined ? "" : ` (was ${quoted(prevKv.value, encoding)})`;
  return `${kv!.modRevision} ${word} ${printable(shown(kv!.key, encoding))}${value}${before}`;
}

/** Text in quotes, so that blanks and line ends in it are seen. */
function quoted(bytes: Uint8Array, encoding: Encoding): string {
  const words = encoding === "text" && asText(bytes) !== undefined;
  return words ? printable(JSON.stringify(shown(bytes, encoding))) : shown(bytes, encoding);
}

function jsonOf(event: KvEvent, encoding: Encoding): string {
  return JSON.stringify({
    type: event.type === KvEventType.DELETE ? "delete" : "put",
    kv: pairOf(event.kv!, encoding),
    ...(event.prevKv === undefined ? {} : { prevKv: pairOf(event.prevKv, encoding) }),
  });
}

export const watch = command<WatchFlags, [string]>({
  brief: "Print changes of a key or a range until Ctrl-C",
  details:
    "A line for each change, or a JSON object with -o json. When the connection breaks, the watch goes on after " +
    "the last change it told.",
  args: [{ brief: "Key", placeholder: "key" }],
  flags: {
    ...encodingFlag,
    ...rangeFlags,
    fromRevision: { kind: "parsed", parse: parseRevision, optional: true, brief: "First tell history from it on" },
    prev: { kind: "boolean", default: false, brief: "Tell what each key was before" },
    puts: { kind: "boolean", default: true, brief: "Tell of keys that are written" },
    deletes: { kind: "boolean", default: true, brief: "Tell of keys that are deleted" },
    maxEvents: { kind: "parsed", parse: parseInteger, optional: true, brief: "End after so many changes" },
  },
  async run({ session, io, flags: common }, flags, name) {
    const { single: _, ...range } = rangeOf(name, flags);
    const watches = session.client(WatchService, "chainfire");
    const json = common.output === "json" || common.output === "yaml";
    let next = flags.fromRevision ?? 0n;
    let told = 0;
    while (!io.signal.aborted) {
      const create = {
        watchId: 1n,
        ...range,
        startRevision: next,
        prevKv: flags.prev,
        noPut: !flags.puts,
        noDelete: !flags.deletes,
      };
      try {
        for await (const message of watches.watch({ watches: [create] })) {
          // Nothing was asked of the past: a broken connection must not lose what came after this.
          if (message.created && next === 0n) next = message.header!.revision + 1n;
          if (message.compactRevision > 0n) {
            throw fault(
              "out_of_range",
              "compacted",
              `Cannot watch from revision ${next} as history begins at ${message.compactRevision}`,
            );
          }
          if (message.cancelled) break;
          for (const event of message.events) {
            io.out(`${json ? jsonOf(event, flags.encoding) : lineOf(event, flags.encoding)}\n`);
            next = event.kv!.modRevision + 1n;
            if (++told === flags.maxEvents) return;
          }
        }
      } catch (error) {
        const { kind } = error as { kind?: string };
        if (io.signal.aborted || (kind !== "unavailable" && kind !== "resource_exhausted") || next === 0n) throw error;
        io.err(`The watch broke off and goes on after revision ${next - 1n}\n`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, retryMs);
        io.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
      });
    }
  },
});
