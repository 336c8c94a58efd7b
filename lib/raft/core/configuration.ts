import { assert } from "@ultracloud/base";
import type { Configuration, Entry, HardState, NodeId } from "./types.ts";

/** Nobody: the configuration of a log that was never bootstrapped. Such a replica waits for a snapshot. */
export const emptyConfiguration: Configuration = {
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

/** A plain majority configuration. */
export function configurationOf(voters: readonly NodeId[]): Configuration {
  return checked({ ...emptyConfiguration, voters: sorted(voters) });
}

/** Every replica that takes part, each once, ascending. */
export function membersOf(configuration: Configuration): NodeId[] {
  return sorted([
    ...new Set([...configuration.voters, ...configuration.votersOutgoing, ...configuration.learners]),
  ]);
}

/** True when `id` votes in either half. */
export function isVoter(configuration: Configuration, id: NodeId): boolean {
  return configuration.voters.includes(id) || configuration.votersOutgoing.includes(id);
}

const FORMAT = 1;

/**
 * The data of a config entry: the whole configuration that holds once the entry commits, so that one entry, one
 * snapshot header and one cut log state it alike. Format byte, auto-leave byte, then four lists of u32 count and u64 ids.
 */
export function encodeConfiguration(configuration: Configuration): Uint8Array<ArrayBuffer> {
  const lists = listsOf(checked(configuration));
  const bytes = new Uint8Array(2 + lists.reduce((sum, list) => sum + 4 + 8 * list.length, 0));
  const view = new DataView(bytes.buffer);
  bytes[0] = FORMAT;
  bytes[1] = configuration.autoLeave ? 1 : 0;
  let at = 2;
  for (const list of lists) {
    view.setUint32(at, list.length);
    at += 4;
    for (const id of list) {
      view.setBigUint64(at, BigInt(id));
      at += 8;
    }
  }
  return bytes;
}

/** The inverse of `encodeConfiguration`; anything else is a bug or a damaged log, and asserts. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  assert(bytes.length >= 2 && bytes[0] === FORMAT, `Configuration has format ${bytes[0]}: wanted ${FORMAT}`);
  let at = 2;
  const list = (): NodeId[] => {
    assert(at + 4 <= bytes.length, "Configuration ends inside a list");
    const count = view.getUint32(at);
    at += 4;
    assert(at + 8 * count <= bytes.length, "Configuration ends inside a list");
    const ids = Array.from({ length: count }, (_, i) => Number(view.getBigUint64(at + 8 * i)));
    at += 8 * count;
    return ids;
  };
  const configuration = {
    voters: list(),
    votersOutgoing: list(),
    learners: list(),
    learnersNext: list(),
    autoLeave: bytes[1] === 1,
  };
  assert(at === bytes.length, "Configuration has bytes after its last list");
  return checked(configuration);
}

/**
 * The first write of every founding replica, the same on each: entry 1 of term 1 states the voters and counts as
 * committed. A replica that joins later starts empty instead and learns the voters from the leader.
 */
export function bootstrapBatch(voters: readonly NodeId[]): { hardState: HardState; entries: Entry[] } {
  assert(voters.length > 0, "A group starts with at least one voter");
  const data = encodeConfiguration(configurationOf(voters));
  return {
    hardState: { term: 1, vote: 0, commit: 1 },
    entries: [{ term: 1, index: 1, kind: "config", data }],
  };
}

function checked(configuration: Configuration): Configuration {
  for (const list of listsOf(configuration)) {
    for (let i = 0; i < list.length; i++) {
      assert(Number.isSafeInteger(list[i]) && list[i]! > 0, `Node id ${list[i]}: wanted a positive integer`);
      assert(i === 0 || list[i - 1]! < list[i]!, "Ids of a configuration are ascending and distinct");
    }
  }
  const learner = configuration.learners.find((id) => isVoter(configuration, id));
  assert(learner === undefined, `Node ${learner} is voter and learner at once`);
  return configuration;
}

function listsOf(c: Configuration): readonly (readonly NodeId[])[] {
  return [c.voters, c.votersOutgoing, c.learners, c.learnersNext];
}

function sorted(ids: readonly NodeId[]): NodeId[] {
  return [...ids].sort((a, b) => a - b);
}
