import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { CompareResult, Consistency, KvService, SortOrder, SortTarget } from "@ultracloud/proto/chainfire/v1";
import { command, parseInteger, type Run, text } from "../frame/command.ts";
import { operatorAuthorization } from "../frame/operator_key.ts";
import {
  type Encoding,
  encodingFlag,
  exactly,
  pairColumns,
  pairItem,
  parseLease,
  parseRevision,
  type RangeFlags,
  rangeFlags,
  rangeOf,
  shown,
  toBytes,
} from "./_kv_bytes.ts";
import { following } from "./_members.ts";
import { elect, lock } from "./kv_hold.ts";
import { lease } from "./kv_lease.ts";
import { txn } from "./kv_txn.ts";
import { watch } from "./kv_watch.ts";

/** The store's own bound; more is refused before it is sent. */
const valueBytesMax = 1.5 * 2 ** 20;
const keyArg = { brief: "Key", placeholder: "key" } as const;
const kvOf = (run: Pick<Run, "session">) => following(run, KvService);

const sortTargets = {
  key: SortTarget.KEY,
  version: SortTarget.VERSION,
  created: SortTarget.CREATE_REVISION,
  modified: SortTarget.MOD_REVISION,
  value: SortTarget.VALUE,
} as const;

/** Keys for the shell, as text. */
async function completeKeys(session: Run["session"], partial: string): Promise<string[]> {
  const { key, rangeEnd } = rangeOf(partial, { prefix: true, fromKey: false, encoding: "text" });
  const { kvs } = await kvOf({ session }).range({ key, rangeEnd, keysOnly: true, limit: 200n });
  return kvs.map((kv) => shown(kv.key, "text"));
}

interface GetFlags extends RangeFlags {
  readonly encoding: Encoding;
  readonly revision?: bigint;
  readonly limit: number;
  readonly sortBy: keyof typeof sortTargets;
  readonly descending: boolean;
  readonly keysOnly: boolean;
  readonly countOnly: boolean;
  readonly serializable: boolean;
  readonly toFile?: string;
}

const get = command<GetFlags, [string]>({
  brief: "Print the value of a key as it is, or the keys of a range",
  args: [keyArg],
  complete: completeKeys,
  flags: {
    ...encodingFlag,
    ...rangeFlags,
    revision: { kind: "parsed", parse: parseRevision, optional: true, brief: "As the store was at this revision" },
    limit: { kind: "parsed", parse: parseInteger, default: "10000", brief: "At most so many keys" },
    sortBy: { kind: "enum", values: Object.keys(sortTargets), default: "key", brief: "What the store sorts by" },
    descending: { kind: "boolean", default: false, brief: "The last first" },
    keysOnly: { kind: "boolean", default: false, brief: "Leave the values out" },
    countOnly: { kind: "boolean", default: false, brief: "Print how many keys there are" },
    serializable: { kind: "boolean", default: false, brief: "Ask this member alone; it may be behind" },
    toFile: {
      kind: "parsed",
      parse: text,
      optional: true,
      brief: "Write the value of one key to a file, byte by byte",
    },
  },
  async run(run, flags, name) {
    const { io, items } = run;
    const { single, ...range } = rangeOf(name, flags);
    if (flags.limit < 1) throw fault("invalid_argument", "bad_limit", "Cannot print no keys: wanted --limit 1 or more");
    const { kvs, count, more } = await kvOf(run).range({
      ...range,
      limit: BigInt(flags.limit),
      revision: flags.revision ?? 0n,
      sortOrder: flags.descending ? SortOrder.DESCEND : SortOrder.ASCEND,
      sortTarget: sortTargets[flags.sortBy],
      keysOnly: flags.keysOnly,
      countOnly: flags.countOnly,
      consistency: flags.serializable ? Consistency.SERIALIZABLE : Consistency.LINEARIZABLE,
    });
    if (flags.countOnly) return io.out(`${count}\n`);
    const machine = run.flags.output === "json" || run.flags.output === "yaml";
    if (single) {
      const [kv] = kvs;
      if (kv === undefined) throw fault("not_found", "key_not_found", `Cannot find the key ${name}`);
      if (flags.toFile !== undefined) {
        await Deno.writeFile(flags.toFile, kv.value, { createNew: true });
        return io.err(`Wrote ${kv.value.length} bytes to ${flags.toFile}\n`);
      }
      if (machine || run.flags.columns !== undefined) {
        return await items([pairItem(kv, flags.encoding)], pairColumns, true);
      }
      return io.out(exactly(kv.value, flags.encoding) + "\n");
    }
    if (flags.toFile !== undefined) {
      throw fault("invalid_argument", "one_key", "Cannot write several values to a file: wanted one key");
    }
    await items(kvs.map((kv) => pairItem(kv, flags.encoding)), pairColumns);
    if (more) io.err(`There are ${count} keys, ${kvs.length} are shown: --limit shows more\n`);
  },
});

const list = command<{ encoding: Encoding }, [string?]>({
  brief: "List keys with a prefix",
  args: [{ brief: "Prefix", placeholder: "prefix", optional: true }],
  complete: completeKeys,
  flags: encodingFlag,
  async run(run, flags, prefix = "") {
    const { single: _, ...range } = rangeOf(prefix, { prefix: true, fromKey: false, encoding: flags.encoding });
    const { kvs, more, count } = await kvOf(run).range({ ...range, limit: 10_000n });
    await run.items(kvs.map((kv) => pairItem(kv, flags.encoding)), pairColumns);
    if (more) {
      run.io.err(`There are ${count} keys, ${kvs.length} are shown: \`uc kv get --prefix --limit\` shows more\n`);
    }
  },
});

/** What is to be written: an argument, a file, or standard input as `-`. */
async function valueOf(given: string | undefined, file: string | undefined, encoding: Encoding) {
  if ((given === undefined) === (file === undefined)) {
    throw fault("invalid_argument", "value_unclear", "Cannot tell the value: wanted it as an argument or as --file");
  }
  if (given !== undefined) return toBytes(given, encoding);
  const bytes = file === "-" ? await readInput() : await Deno.readFile(file!);
  if (bytes.length <= valueBytesMax) return bytes;
  throw fault(
    "invalid_argument",
    "value_too_large",
    `Cannot write a value of ${bytes.length} bytes: wanted at most ${valueBytesMax}`,
  );
}

/** Standard input, no more of it than a value may have. */
async function readInput(): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of Deno.stdin.readable) {
    parts.push(part);
    if ((total += part.length) > valueBytesMax) break;
  }
  return new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer());
}

interface PutFlags {
  readonly encoding: Encoding;
  readonly file?: string;
  readonly lease?: bigint;
  readonly ifAbsent: boolean;
  readonly ifRevision?: bigint;
  readonly prev: boolean;
}

const put = command<PutFlags, [string, string?]>({
  brief: "Write a key",
  details: "The value is an argument, or comes from --file: secrets belong in a file or on standard input (--file -).",
  args: [keyArg, { brief: "Value", placeholder: "value", optional: true }],
  complete: completeKeys,
  flags: {
    ...encodingFlag,
    file: {
      kind: "parsed",
      parse: text,
      optional: true,
      brief: "File with the value, byte by byte; - reads standard input",
    },
    lease: { kind: "parsed", parse: parseLease, optional: true, brief: "Lease whose end deletes the key" },
    ifAbsent: { kind: "boolean", default: false, brief: "Only when the key does not exist" },
    ifRevision: {
      kind: "parsed",
      parse: parseRevision,
      optional: true,
      brief: "Only when the key was last changed at it",
    },
    prev: { kind: "boolean", default: false, brief: "Print what the key was before" },
  },
  async run(run, flags, name, given) {
    if (flags.ifAbsent && flags.ifRevision !== undefined) {
      throw fault(
        "invalid_argument",
        "condition_unclear",
        "Cannot tell the condition: wanted --if-absent or --if-revision",
      );
    }
    const { key } = rangeOf(name, { prefix: false, fromKey: false, encoding: flags.encoding });
    const value = await valueOf(given, flags.file, flags.encoding);
    const request = { key, value, lease: flags.lease ?? 0n, prevKv: flags.prev };
    const expected = flags.ifAbsent ? 0n : flags.ifRevision;
    let answer;
    if (expected === undefined) answer = await kvOf(run).put(request);
    else {
      const { succeeded, responses } = await kvOf(run).txn({
        compare: [{ key, result: CompareResult.EQUAL, target: { case: "modRevision", value: expected } }],
        success: [{ request: { case: "put", value: request } }],
      });
      if (!succeeded) {
        const wanted = flags.ifAbsent ? "no such key" : `it as of revision ${expected}`;
        throw fault("aborted", "key_changed", `Cannot write the key ${name}: wanted ${wanted}`);
      }
      const [first] = responses;
      answer = first?.response.case === "put" ? first.response.value : undefined;
    }
    if (flags.prev && answer?.prevKv) await run.items([pairItem(answer.prevKv, flags.encoding)], pairColumns, true);
    run.io.err(`Wrote ${name} at revision ${answer?.header?.revision}\n`);
  },
});

const remove = command<RangeFlags & { encoding: Encoding; prev: boolean }, [string]>({
  brief: "Delete a key or a range of keys",
  args: [keyArg],
  complete: completeKeys,
  flags: {
    ...encodingFlag,
    ...rangeFlags,
    prev: { kind: "boolean", default: false, brief: "Print what was deleted" },
  },
  async run(run, flags, name) {
    const { single, ...range } = rangeOf(name, flags);
    const kv = kvOf(run);
    if (single) run.confirm(`Delete the key ${name}?`);
    else {
      const { count } = await kv.range({ ...range, countOnly: true });
      if (count === 0n) throw fault("not_found", "key_not_found", "Cannot find a key in the range");
      run.confirm(`Delete ${count} keys?`);
    }
    const { deleted, prevKvs } = await kv.deleteRange({ ...range, prevKv: flags.prev });
    if (deleted === 0n) throw fault("not_found", "key_not_found", `Cannot find the key ${name}`);
    if (flags.prev) await run.items(prevKvs.map((pair) => pairItem(pair, flags.encoding)), pairColumns);
    run.io.err(single ? `Deleted ${name}\n` : `Deleted ${deleted} keys\n`);
  },
});

const compact = command<{ physical: boolean }, [string]>({
  brief: "Forget history below a revision; `latest` keeps the present alone",
  args: [{ brief: "Revision, or latest", placeholder: "revision" }],
  flags: { physical: { kind: "boolean", default: false, brief: "Wait until what is forgotten is gone from the disk" } },
  async run(run, { physical }, given) {
    const kv = kvOf(run);
    const latest = async () => (await kv.range({ key: new Uint8Array([0]), countOnly: true })).header?.revision ?? 0n;
    const revision = given === "latest" ? await latest() : /^\d{1,16}$/.test(given) ? BigInt(given) : 0n;
    if (revision < 1n) {
      throw fault(
        "invalid_argument",
        "bad_revision",
        `Cannot compact to ${JSON.stringify(given.slice(0, 40))}: wanted a revision from 1 on, or latest`,
      );
    }
    run.confirm(`Forget what keys were before revision ${revision}?`);
    await kv.compact({ revision, physical });
    run.io.err(`History begins at revision ${revision}\n`);
  },
});

const token = command({
  brief: "Print a header with a token of one minute, for curl: uc kv token | curl -H @- ...",
  async run({ session, io }) {
    io.out(`authorization: ${await operatorAuthorization(session.context, "chainfire")}\n`);
  },
});

export const kv = buildRouteMap({
  docs: { brief: "Keys of the coordination store, as the operator" },
  routes: { get, list, put, delete: remove, txn, watch, compact, lease, lock, elect, token },
  aliases: { del: "delete" },
});
