import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  type Quarantine,
  QuarantineSchema,
  type Rollout,
  type RolloutNode,
  RolloutNodeSchema,
  RolloutSchema,
  RolloutService,
  RolloutState,
} from "@ultracloud/proto/deployer/v1";
import { type Column, enumName } from "../frame/columns.ts";
import { command, type Run } from "../frame/command.ts";
import { writing } from "./_deployer.ts";

const count = (rollout: Rollout, phase: string) => rollout.nodes.filter((node) => node.phase === phase).length;
const columns: readonly Column<Rollout>[] = [
  { name: "name", get: (r) => r.name },
  { name: "state", get: (r) => enumName(RolloutState, r.state) },
  { name: "active", get: (r) => `${count(r, "active")}/${r.nodes.length}` },
  { name: "batch", get: (r) => String(r.batch) },
  { name: "why", get: (r) => r.reason },
  { name: "batch_size", get: (r) => String(r.batchSize), wide: true },
  { name: "max_unavailable", get: (r) => String(r.maxUnavailable), wide: true },
];
const nodeColumns: readonly Column<RolloutNode>[] = [
  { name: "node", get: (n) => n.node },
  { name: "phase", get: (n) => n.phase },
  { name: "system", get: (n) => n.targetSystem.replace("/nix/store/", "") },
  { name: "why", get: (n) => n.reason },
];
const quarantineColumns: readonly Column<Quarantine>[] = [
  { name: "class", get: (q) => q.class },
  { name: "system", get: (q) => q.targetSystem.replace("/nix/store/", "") },
  { name: "failed_on", get: (q) => q.node },
  { name: "why", get: (q) => q.reason },
];
const rolloutArg = [{ brief: "Rollout", placeholder: "rollout" }] as const;
const clientOf = ({ session }: Pick<Run, "session">) => session.client(RolloutService, "deployer");
const complete = async (session: Run["session"]) =>
  (await clientOf({ session }).listRollouts({})).rollouts.map(({ name }) => name);

function order(brief: string, verb: "pauseRollout" | "resumeRollout" | "abortRollout") {
  return command<Record<never, never>, [string]>({
    brief,
    args: rolloutArg,
    complete,
    async run(run, _flags, rollout) {
      if (verb === "abortRollout") run.confirm(`Give up ${rollout}? What has not changed stays as it is.`);
      await run.one(RolloutSchema, await (await writing(run, RolloutService))[verb]({ rollout }), columns);
    },
  });
}

const over: ReadonlySet<RolloutState> = new Set([RolloutState.DONE, RolloutState.HALTED, RolloutState.ABORTED]);
const lookMs = 500;

export const rollout = buildRouteMap({
  docs: { brief: "Changes of systems as they go over nodes" },
  routes: {
    list: command({
      brief: "List rollouts",
      async run(run) {
        await run.list(RolloutSchema, (await clientOf(run).listRollouts({})).rollouts, columns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show where each node of a rollout stands",
      args: rolloutArg,
      complete,
      async run(run, _flags, rollout) {
        const found = await clientOf(run).getRollout({ rollout });
        run.io.err(`${found.name}: ${enumName(RolloutState, found.state)}${found.reason ? `, ${found.reason}` : ""}\n`);
        await run.list(RolloutNodeSchema, found.nodes, nodeColumns);
      },
    }),
    quarantines: command({
      brief: "List generations that failed and are kept from their class",
      async run(run) {
        await run.list(QuarantineSchema, (await clientOf(run).listRollouts({})).quarantines, quarantineColumns);
      },
    }),
    wait: command<Record<never, never>, [string]>({
      brief: "Follow a rollout to its end; exits with a failure unless every node is active",
      args: rolloutArg,
      complete,
      async run(run, _flags, rollout) {
        const client = clientOf(run);
        const { io, flags } = run;
        const endMs = performance.now() + flags.timeout;
        let shown = "";
        for (;;) {
          const found = await client.getRollout({ rollout });
          const line = `${found.name}: ${enumName(RolloutState, found.state)}, ${count(found, "active")} of ` +
            `${found.nodes.length} active${found.reason ? `; ${found.reason}` : ""}`;
          if (line !== shown) io.err(io.interactive ? `\r\x1b[K${line}` : `${line}\n`);
          shown = line;
          if (over.has(found.state)) {
            if (io.interactive) io.err("\n");
            await run.one(RolloutSchema, found, columns);
            if (found.state === RolloutState.DONE) return;
            throw fault(
              "failed_precondition",
              "rollout_not_done",
              `${found.name} is ${enumName(RolloutState, found.state)}`,
            );
          }
          if (performance.now() > endMs) {
            throw fault("deadline_exceeded", "wait_timeout", `Cannot wait longer for ${found.name}: it goes on`);
          }
          await new Promise((resolve) => setTimeout(resolve, lookMs));
        }
      },
    }),
    pause: order("Begin no further batch; what is under way finishes", "pauseRollout"),
    resume: order("Go on, also after failures that somebody has looked at", "resumeRollout"),
    abort: order("Give a change up until the intent changes", "abortRollout"),
  },
});
