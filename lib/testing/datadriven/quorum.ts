import { jointCommitted, jointVote, majorityCommitted, majorityVote, type VoteResult } from "@ultracloud/raft";
import type { Directive } from "./parse.ts";
import type { Handler } from "./run.ts";

/** Directives about majorities: `committed` and `vote`, each for one majority or, with `cfgj`, for two joint ones. */
export function quorumHandlers(): Readonly<Record<string, Handler>> {
  return {
    committed: (directive) => {
      const given = read(directive);
      return mismatch(given, given.indexes) ?? committed(given);
    },
    vote: (directive) => {
      const given = read(directive);
      return mismatch(given, given.votes) ?? vote(given);
    },
  };
}

interface Given {
  readonly joint: boolean;
  readonly voters: readonly number[];
  readonly votersOutgoing: readonly number[];
  /** Every voter of either half, in the order of first mention. */
  readonly mentioned: readonly number[];
  /** 0 stands for an omitted report. */
  readonly indexes: readonly number[];
  /** 2 for, 1 against, 0 omitted. */
  readonly votes: readonly number[];
}

const VOTES: Readonly<Record<string, number>> = { y: 2, n: 1, _: 0 };

function read({ args }: Directive): Given {
  const voters: number[] = [], votersOutgoing: number[] = [], indexes: number[] = [], votes: number[] = [];
  let joint = false;
  for (const { key, values } of args) {
    if (key === "cfg") voters.push(...values.map((value) => natural(key, value)));
    else if (key === "cfgj") {
      joint = true;
      if (values.includes("zero")) {
        if (values.length > 1) throw new Error("Cannot read cfgj: zero stands alone");
      } else votersOutgoing.push(...values.map((value) => natural(key, value)));
    } else if (key === "idx") {
      for (const value of values) {
        const index = value === "_" ? 0 : natural(key, value);
        if (index === 0 && value !== "_") throw new Error("Cannot use 0 as idx: wanted _ for no report");
        indexes.push(index);
      }
    } else if (key === "votes") {
      for (const value of values) {
        if (!Object.hasOwn(VOTES, value)) throw new Error(`Cannot read vote ${value}: wanted y, n or _`);
        votes.push(VOTES[value]!);
      }
    } else throw new Error(`Cannot read argument ${key}: wanted cfg, cfgj, idx or votes`);
  }
  return {
    joint,
    voters: ascending(voters),
    votersOutgoing: ascending(votersOutgoing),
    mentioned: [...new Set([...voters, ...votersOutgoing])],
    indexes,
    votes,
  };
}

/** Every voter has one value, explicit or omitted; anything else is a mistake of the scenario. */
function mismatch({ mentioned }: Given, values: readonly number[]): string | undefined {
  if (mentioned.length === values.length) return undefined;
  const voters = ascending(mentioned).map((id) => `${id}:{}`).join(" ");
  return `error: mismatched input (explicit or _) for voters map[${voters}]: [${values.join(" ")}]`;
}

function reports({ mentioned }: Given, values: readonly number[]): Map<number, number> {
  return new Map(mentioned.map((id, i) => [id, values[i]!] as const).filter(([, value]) => value !== 0));
}

function committed(given: Given): string {
  const { joint, voters, votersOutgoing } = given;
  const acked = reports(given, given.indexes);
  const of = (id: number) => acked.get(id);
  const lines: string[] = [];
  const expect = (index: number, other: number, how: string) => {
    if (other !== index) lines.push(`${text(other)} <-- ${how}\n`);
  };
  let index: number;
  if (joint) {
    index = jointCommitted({ voters, votersOutgoing }, of);
    expect(index, jointCommitted({ voters: votersOutgoing, votersOutgoing: voters }, of), "via symmetry");
  } else {
    index = majorityCommitted(voters, of);
    expect(index, counted(voters, of), "via alternative computation");
    expect(index, jointCommitted({ voters, votersOutgoing: [] }, of), "via zero-joint quorum");
    expect(index, jointCommitted({ voters, votersOutgoing: voters }, of), "via self-joint quorum");
    for (const id of voters) {
      const own = of(id) ?? 0;
      if (own === 0 || own >= index) continue;
      // It is behind what committed: how far behind must not matter.
      for (const [lower, shown] of [[own - 1, own], [0, 0]] as const) {
        const overlaid = majorityCommitted(voters, (each) => each === id ? lower : of(each));
        expect(index, overlaid, `overlaying ${id}->${shown}`);
      }
    }
  }
  return describe(ascending([...voters, ...votersOutgoing]), of) + lines.join("") + `${text(index)}\n`;
}

/** The highest reported index that enough voters have reached, found by counting each. */
function counted(voters: readonly number[], of: (id: number) => number | undefined): number {
  if (voters.length === 0) return Infinity;
  const reached = (index: number) => voters.filter((id) => (of(id) ?? 0) >= index).length;
  const enough = Math.floor(voters.length / 2) + 1;
  return Math.max(0, ...voters.map((id) => of(id) ?? 0).filter((index) => reached(index) >= enough));
}

/** A bar for each voter, as long as the number of voters behind it. */
function describe(voters: readonly number[], of: (id: number) => number | undefined): string {
  if (voters.length === 0) return "<empty majority quorum>";
  const n = voters.length;
  const rows = voters.map((id) => {
    const index = of(id);
    const behind = voters.filter((other) => (of(other) ?? 0) < (index ?? 0)).length;
    const bar = index === undefined ? "?" + " ".repeat(n) : "x".repeat(behind) + ">" + " ".repeat(n - behind);
    return `${bar} ${String(index ?? 0).padStart(5)}    (id=${id.toString(16)})\n`;
  });
  return `${" ".repeat(n)}    idx\n${rows.join("")}`;
}

const RESULTS: Readonly<Record<VoteResult, string>> = { won: "VoteWon", lost: "VoteLost", pending: "VotePending" };

function vote(given: Given): string {
  const { joint, voters, votersOutgoing } = given;
  const votes = new Map([...reports(given, given.votes)].map(([id, value]) => [id, value === 2]));
  if (!joint) return `${RESULTS[majorityVote(voters, votes)]}\n`;
  const result = jointVote({ voters, votersOutgoing }, votes);
  const swapped = jointVote({ voters: votersOutgoing, votersOutgoing: voters }, votes);
  return (swapped === result ? "" : `${RESULTS[swapped]} <-- via symmetry\n`) + `${RESULTS[result]}\n`;
}

function natural(key: string, value: string): number {
  const number = /^\d+$/.test(value) ? Number(value) : NaN;
  if (!Number.isSafeInteger(number)) throw new Error(`Cannot read ${key} ${value}: wanted a whole number below 2^53`);
  return number;
}

function ascending(ids: readonly number[]): number[] {
  return [...new Set(ids)].sort((a, b) => a - b);
}

function text(index: number): string {
  return index === Infinity ? "∞" : String(index);
}
