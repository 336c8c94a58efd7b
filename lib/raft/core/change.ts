import { fault } from "@ultracloud/base";
import { emptyConfiguration } from "./configuration.ts";
import type { Configuration, NodeId } from "./types.ts";

/**
 * One thing that happens to one replica. add_voter also promotes a learner, add_learner also demotes a voter; a step
 * that finds its end reached changes nothing.
 */
export interface ChangeStep {
  readonly type: "add_voter" | "add_learner" | "remove";
  readonly id: NodeId;
}

/** How several steps are applied: auto = simple when at most one voter changes, else joint with auto-leave. */
export type Transition = "auto" | "joint_auto" | "joint_explicit";

/**
 * The configuration after steps that change at most one voter together (thesis, 4.1): any two majorities of before and
 * after then share a voter. Throws a failed_precondition Fault when more would change, nobody would be left to vote, or
 * a joint configuration is in force.
 */
export function simpleChange(current: Configuration, steps: readonly ChangeStep[]): Configuration {
  if (isJoint(current)) {
    throw refused("simple_while_joint", "Cannot change one voter as a joint configuration is in force: leave it first");
  }
  const next = applied(current, [], steps);
  const changed = votersChanged(current, next);
  if (changed > 1) {
    throw refused("several_voters", `Cannot change ${changed} voters in one step: wanted at most 1, or a joint change`);
  }
  return next;
}

/**
 * The joint configuration (4.3) in which the present voters and those after `steps` decide together. A present voter
 * that becomes a learner keeps its vote till the end and waits in `learnersNext`.
 */
export function enterJoint(current: Configuration, steps: readonly ChangeStep[], autoLeave: boolean): Configuration {
  if (isJoint(current)) throw refused("already_joint", "Cannot enter a joint configuration as one is in force");
  if (current.voters.length === 0) {
    throw refused("nobody_to_join", "Cannot enter a joint configuration as nobody votes yet");
  }
  return { ...applied(current, current.voters, steps), autoLeave };
}

/** The configuration in which the incoming voters decide alone. */
export function leaveJoint(current: Configuration): Configuration {
  if (!isJoint(current)) throw refused("not_joint", "Cannot leave a joint configuration as none is in force");
  return {
    voters: current.voters,
    votersOutgoing: [],
    learners: ascending(new Set([...current.learners, ...current.learnersNext])),
    learnersNext: [],
    autoLeave: false,
  };
}

/** The next configuration for `steps`, by the way that `transition` asks for. */
export function nextConfiguration(
  current: Configuration,
  steps: readonly ChangeStep[],
  transition: Transition,
): Configuration {
  if (transition !== "auto") return enterJoint(current, steps, transition === "joint_auto");
  if (isJoint(current) || current.voters.length === 0) return simpleChange(current, steps);
  const next = applied(current, [], steps);
  return votersChanged(current, next) <= 1 ? next : enterJoint(current, steps, true);
}

/** True between entering a joint configuration and leaving it. */
export function isJoint(configuration: Configuration): boolean {
  return configuration.votersOutgoing.length > 0;
}

function applied(current: Configuration, outgoing: readonly NodeId[], steps: readonly ChangeStep[]): Configuration {
  const voters = new Set(current.voters);
  const learners = new Set(current.learners);
  const learnersNext = new Set(current.learnersNext);
  for (const { type, id } of steps) {
    if (!Number.isSafeInteger(id) || id <= 0) {
      throw fault("invalid_argument", "invalid_node_id", `Cannot change node ${id}: wanted a positive integer`);
    }
    if (type === "add_learner" && (learners.has(id) || learnersNext.has(id))) continue;
    voters.delete(id);
    learners.delete(id);
    learnersNext.delete(id);
    if (type === "add_voter") voters.add(id);
    // It cannot vote and learn at once: while it still votes in the outgoing half, it only waits.
    else if (type === "add_learner") (outgoing.includes(id) ? learnersNext : learners).add(id);
  }
  if (voters.size === 0) throw refused("no_voters_left", "Cannot remove all voters: wanted at least 1 to stay");
  return {
    ...emptyConfiguration,
    voters: ascending(voters),
    votersOutgoing: outgoing,
    learners: ascending(learners),
    learnersNext: ascending(learnersNext),
  };
}

/** Voters that come or go. */
function votersChanged(before: Configuration, after: Configuration): number {
  return before.voters.filter((id) => !after.voters.includes(id)).length +
    after.voters.filter((id) => !before.voters.includes(id)).length;
}

function ascending(ids: ReadonlySet<NodeId>): NodeId[] {
  return [...ids].sort((a, b) => a - b);
}

function refused(code: string, message: string): Error {
  return fault("failed_precondition", code, message);
}
