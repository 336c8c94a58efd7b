import { Fault, type Rng, uniform } from "@ultracloud/base";
import type { Change, ChangeStep, Configuration, NodeId } from "@ultracloud/raft";
import { isJoint } from "@ultracloud/raft";
import type { SimClock } from "./sim_clock.ts";
import type { SimNode } from "./sim_raft_node.ts";

/** Enough for a change to have two ways to a majority, few enough for quick runs. */
const VOTERS_MAX = 5;
/** Replicas that may come and go in one run: ids are never used again. */
const NODES_MAX = 14;

export interface SimMembersDeps {
  readonly clock: SimClock;
  readonly rng: Rng;
  readonly nodes: () => readonly SimNode[];
  /** Starts a replica that has never been a member. */
  readonly create: () => SimNode;
  readonly count: (fault: string) => void;
  readonly trace: (what: string, a: number, b: number) => void;
}

/** An operator who changes the members while everything else goes wrong: learners, promotions, removals, replacements. */
export class SimMembers {
  readonly #deps: SimMembersDeps;
  /** Started for a change that was refused: for the next one. */
  readonly #unused: SimNode[] = [];
  /** Changes that came into force. */
  changes = 0;

  constructor(deps: SimMembersDeps) {
    this.#deps = deps;
  }

  /** The configuration a leader knows; undefined without a leader. */
  get configuration(): Configuration | undefined {
    return this.#leader()?.core?.configuration;
  }

  #leader(): SimNode | undefined {
    const leaders = this.#deps.nodes().filter(({ core }) => core?.role === "leader");
    return leaders.sort((a, b) => b.core!.term - a.core!.term)[0];
  }

  /** Asks for one change that makes sense now; it may be refused. */
  change(): void {
    const leader = this.#leader();
    if (!leader) return;
    const { configuration } = leader.core!;
    if (isJoint(configuration)) {
      if (!configuration.autoLeave) this.#ask(leader, "leave of a joint configuration", { leave: true }, []);
      return;
    }
    const { voters, learners } = configuration;
    const { rng } = this.#deps;
    const someone = <T>(list: readonly T[]) => list.length > 0 ? list[uniform(rng, list.length)] : undefined;
    const transition = () => uniform(rng, 2) === 0 ? "joint_auto" as const : "joint_explicit" as const;
    const voter = someone(voters)!, learner = someone(learners);
    const kind = uniform(rng, 8);
    const promote = (id: NodeId): Change => ({ steps: [{ type: "add_voter", id }] });
    if (kind <= 1 && learner !== undefined) {
      this.#ask(leader, "promotion", promote(learner), []);
    } else if (kind <= 2) {
      this.#withNewcomer(leader, "new learner", (id) => ({ steps: [{ type: "add_learner", id }] }));
    } else if (kind === 3 && voters.length < VOTERS_MAX) {
      this.#withNewcomer(leader, "new voter", promote);
    } else if (kind === 4 && voters.length > 1) {
      const id = uniform(rng, 2) === 0 ? leader.id : voter;
      this.#ask(
        leader,
        id === leader.id ? "removal of the leader" : "removal",
        { steps: [{ type: "remove", id }] },
        [],
      );
    } else if (kind === 5 && voters.length > 1) {
      this.#ask(leader, "demotion", { steps: [{ type: "add_learner", id: voter }] }, []);
    } else if (kind === 6) {
      this.#withNewcomer(leader, "joint replacement", (id) => ({
        steps: [{ type: "add_voter", id }, { type: "remove", id: voter }],
        transition: transition(),
      }));
    } else {
      const steps: ChangeStep[] = voters.filter(() => uniform(rng, 3) === 0).slice(1)
        .map((id) => ({ type: uniform(rng, 2) === 0 ? "remove" as const : "add_learner" as const, id }));
      for (const id of learners) if (uniform(rng, 2) === 0) steps.push({ type: "add_voter", id });
      this.#ask(leader, "joint change", { steps, transition: transition() }, []);
    }
  }

  /** Ends a joint configuration that nobody would end by itself. */
  leave(): void {
    const leader = this.#leader();
    const configuration = leader?.core?.configuration;
    if (!configuration || !isJoint(configuration) || configuration.autoLeave) return;
    this.#ask(leader!, "leave of a joint configuration", { leave: true }, []);
  }

  #withNewcomer(leader: SimNode, what: string, change: (id: NodeId) => Change): void {
    const reused = this.#unused.pop();
    if (!reused && this.#deps.nodes().length >= NODES_MAX) return;
    const newcomer = reused ?? this.#deps.create();
    this.#ask(leader, what, change(newcomer.id), [newcomer]);
  }

  #ask(leader: SimNode, what: string, change: Change, newcomers: readonly SimNode[]): void {
    const { count, trace } = this.#deps;
    trace(what, leader.id, newcomers[0]?.id ?? 0);
    leader.deliver({
      kind: "call",
      run: () => {
        try {
          leader.driver!.changeConfiguration(change, (outcome) => {
            if (!("refused" in outcome)) {
              this.changes++;
              count(`(change) ${what}`);
            } else if (outcome.refused !== "leadership_lost" && outcome.refused !== "stopped") {
              this.#unused.push(...newcomers);
            }
          });
        } catch (error) {
          // The steps come from a leader's state that a pause has made old.
          if (!(error instanceof Fault)) throw error;
          this.#unused.push(...newcomers);
        }
      },
    });
  }
}
