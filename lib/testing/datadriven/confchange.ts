import { Fault } from "@ultracloud/base";
import {
  type ChangeStep,
  type Configuration,
  emptyConfiguration,
  enterJoint,
  leaveJoint,
  type NodeId,
  simpleChange,
} from "@ultracloud/raft";
import type { Directive } from "./parse.ts";
import type { Handler } from "./run.ts";

/** The refusals in the words that scenario texts of other Raft libraries use. */
const REFUSALS: Readonly<Record<string, string>> = {
  no_voters_left: "removed all voters",
  several_voters: "more than one voter changed without entering joint config",
  already_joint: "config is already joint",
  nobody_to_join: "can't make a zero-voter config joint",
  not_joint: "can't leave a non-joint config",
  simple_while_joint: "can't apply simple config change in joint config",
};

const TYPES: Readonly<Record<string, ChangeStep["type"] | "update">> = {
  v: "add_voter",
  l: "add_learner",
  r: "remove",
  u: "update",
};

const TRUE = ["1", "t", "T", "true", "TRUE", "True"], FALSE = ["0", "f", "F", "false", "FALSE", "False"];

/** Directives that change one configuration: `simple`, `enter-joint [autoleave=true]` and `leave-joint`. */
export function confchangeHandlers(): Readonly<Record<string, Handler>> {
  const scenario = new Scenario();
  return {
    "simple": ({ input }) => scenario.change(input, simpleChange),
    "enter-joint": (directive) => {
      const autoLeave = readAutoLeave(directive);
      return scenario.change(directive.input, (current, steps) => enterJoint(current, steps, autoLeave));
    },
    "leave-joint": ({ input }) => scenario.change(input, leaveJoint, "this command takes no input"),
  };
}

class Scenario {
  #configuration: Configuration = emptyConfiguration;
  /** Where a leader would begin to probe each member: the end of the log when it was added. */
  #next = new Map<NodeId, number>();
  /** The log grows with every directive, refused ones too. */
  #lastIndex = 0;

  change(
    input: string,
    next: (current: Configuration, steps: readonly ChangeStep[]) => Configuration,
    inputRefused?: string,
  ): string {
    try {
      const steps = readSteps(input);
      if (typeof steps === "string") return steps;
      if (inputRefused !== undefined && input !== "") return `${inputRefused}\n`;
      const configuration = next(this.#configuration, steps);
      this.#next = this.#track(configuration, steps);
      this.#configuration = configuration;
      return this.#describe();
    } catch (error) {
      if (error instanceof Fault && Object.hasOwn(REFUSALS, error.code)) return `${REFUSALS[error.code]}\n`;
      throw error;
    } finally {
      this.#lastIndex++;
    }
  }

  /** A member that is removed and added again within one change begins anew, unless it votes on meanwhile. */
  #track(configuration: Configuration, steps: readonly ChangeStep[]): Map<NodeId, number> {
    const next = new Map(this.#next);
    for (const { type, id } of steps) {
      if (type === "remove") {
        if (!configuration.votersOutgoing.includes(id)) next.delete(id);
      } else if (!next.has(id)) next.set(id, Math.max(this.#lastIndex, 1));
    }
    const members = [...configuration.voters, ...configuration.votersOutgoing, ...configuration.learners];
    for (const id of next.keys()) if (!members.includes(id)) next.delete(id);
    return next;
  }

  #describe(): string {
    const { voters, votersOutgoing, learners, learnersNext, autoLeave } = this.#configuration;
    const head = `voters=${list(voters)}` +
      (votersOutgoing.length > 0 ? `&&${list(votersOutgoing)}` : "") +
      (learners.length > 0 ? ` learners=${list(learners)}` : "") +
      (learnersNext.length > 0 ? ` learners_next=${list(learnersNext)}` : "") +
      (autoLeave ? " autoleave" : "");
    const rows = [...this.#next].sort(([a], [b]) => a - b).map(([id, next]) =>
      `${id}: StateProbe match=0 next=${next}${learners.includes(id) ? " learner" : ""}\n`
    );
    return `${head}\n${rows.join("")}`;
  }
}

/** The steps, or what is wrong with the first token that is none. Updates and id 0 say nothing. */
function readSteps(input: string): ChangeStep[] | string {
  const steps: ChangeStep[] = [];
  for (const token of input.split(/\s+/).filter((each) => each !== "")) {
    if (token.length < 2) return `unknown token ${token}`;
    const type = TYPES[token[0]!];
    if (type === undefined) return `unknown input: ${token}`;
    const digits = token.slice(1);
    if (!/^\d+$/.test(digits)) return `strconv.ParseUint: parsing "${digits}": invalid syntax`;
    const id = Number(digits);
    if (!Number.isSafeInteger(id)) throw new Error(`Cannot use node id ${digits}: wanted one below 2^53`);
    if (type !== "update" && id !== 0) steps.push({ type, id });
  }
  return steps;
}

function readAutoLeave({ args }: Directive): boolean {
  if (args.length === 0) return false;
  const value = args.find(({ key }) => key === "autoleave")?.values[0];
  if (value === undefined || ![...TRUE, ...FALSE].includes(value)) {
    throw new Error(`Cannot read autoleave ${value ?? "(missing)"}: wanted true or false`);
  }
  return TRUE.includes(value);
}

function list(ids: readonly NodeId[]): string {
  return `(${ids.map((id) => id.toString(16)).join(" ")})`;
}
