import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  type Bundle,
  BundleSchema,
  DeployerService,
  type DeployerStatus,
  DeployerStatusSchema,
  type StateChange,
  StateChangeSchema,
} from "@ultracloud/proto/deployer/v1";
import { type Column, humanBytes } from "../frame/columns.ts";
import { command, type Run, text } from "../frame/command.ts";
import { writing } from "./_deployer.ts";
import { machineRoutes } from "./deployer_nodes.ts";

const statusColumns: readonly Column<DeployerStatus>[] = [
  { name: "instance", get: (s) => s.instance },
  { name: "role", get: (s) => s.writing ? "writer" : "standby" },
  { name: "writer", get: (s) => s.writer === undefined ? "nobody" : `${s.writer.instance} (epoch ${s.writer.epoch})` },
  { name: "state", get: (s) => s.clusterRevision === 0n ? "none applied" : `revision ${s.clusterRevision}` },
  { name: "nodes", get: (s) => String(s.nodesCount) },
  { name: "pending", get: (s) => String(s.pendingCount) },
  { name: "bundle", get: (s) => s.bundle?.sha256.slice(0, 12) ?? "" },
  { name: "cache", get: (s) => s.binaryCacheUrl, wide: true },
  { name: "ca_sha256", get: (s) => s.caSha256, wide: true },
];
const changeColumns: readonly Column<StateChange>[] = [
  { name: "path", get: (c) => c.path || "(everything)" },
  { name: "before", get: (c) => short(c.beforeJson) },
  { name: "after", get: (c) => short(c.afterJson) },
];
const bundleColumns: readonly Column<Bundle>[] = [
  { name: "sha256", get: (b) => b.sha256 },
  { name: "size", get: (b) => humanBytes(b.bytesCount) },
  { name: "path", get: (b) => b.path },
];
const short = (json: string) => json.length <= 60 ? json : `${json.slice(0, 57)}...`;
const fileArg = (brief: string) => [{ brief, placeholder: "file" }] as const;

/** What an operator must not overlook, whatever was asked. */
function shout(run: Run, warnings: readonly string[]): void {
  for (const warning of warnings) run.io.err(`WARNING: ${warning}\n`);
}

export const deployer = buildRouteMap({
  docs: {
    brief: "Enrolment of machines, and what each node should become",
    fullDescription: "The cluster state is generated from `ultracloud.cluster` and applied here. `uc deployer apply " +
      "FILE --dry-run` tells what would change.",
  },
  routes: {
    status: command({
      brief: "Who writes, what is applied, what machines are given",
      async run(run) {
        const status = await run.session.client(DeployerService, "deployer").getStatus({});
        shout(run, status.warnings);
        await run.one(DeployerStatusSchema, status, statusColumns);
      },
    }),
    apply: command<{ dryRun: boolean; revision?: string }, [string]>({
      brief: "Apply a cluster state; --dry-run tells what would change",
      args: fileArg("Cluster state, JSON"),
      flags: {
        revision: { kind: "parsed", parse: text, optional: true, brief: "Only when this revision is in force" },
      },
      dryRunOnServer: true,
      async run(run, flags, file) {
        const client = await writing(run, DeployerService);
        const answer = await client.applyClusterState({
          stateJson: await Deno.readTextFile(file),
          dryRun: flags.dryRun,
          expectedRevision: revisionOf(flags.revision),
        });
        await run.list(StateChangeSchema, answer.changes, changeColumns);
        const affected = answer.affectedNodes.length === 0 ? "no node" : answer.affectedNodes.join(", ");
        const what = flags.dryRun ? "Would change" : answer.applied ? "Applied:" : "Nothing to change:";
        run.io.err(
          `${what} revision ${answer.revision}, ${answer.changes.length} changes; ${affected} gets another system\n`,
        );
      },
    }),
    show: command({
      brief: "Print the cluster state that is in force",
      async run({ session, io }) {
        const { stateJson } = await session.client(DeployerService, "deployer").getClusterState({});
        if (stateJson === "") {
          throw fault("not_found", "nothing_applied", "Cannot show a cluster state: none was applied");
        }
        io.out(`${JSON.stringify(JSON.parse(stateJson), null, 2)}\n`);
      },
    }),
    export: command({
      brief: "Write what a new deployer starts from; hashes of tokens, no secret",
      args: fileArg("File to write"),
      async run({ session, io }, _flags, file) {
        const { exportJson } = await session.client(DeployerService, "deployer").export({});
        await Deno.writeTextFile(file!, exportJson, { mode: 0o600 });
        io.err(`Wrote ${exportJson.length} characters\n`);
      },
    }),
    restore: command<{ overwrite: boolean }, [string]>({
      brief: "Put an export into a deployer that knows nothing",
      args: fileArg("File that `uc deployer export` wrote"),
      flags: { overwrite: { kind: "boolean", default: false, brief: "Also over records that are there" } },
      async run(run, { overwrite }, file) {
        if (overwrite) run.confirm("Replace every node and the cluster state?");
        const exportJson = await Deno.readTextFile(file);
        const { nodesCount, clusterRevision } = await (await writing(run, DeployerService)).restore({
          exportJson,
          overwrite,
        });
        run.io.err(`Restored ${nodesCount} nodes and the cluster state of revision ${clusterRevision}\n`);
      },
    }),
    bundle: command({
      brief: "Make a flake bundle the one that installers get",
      args: fileArg("The bundle"),
      async run(run, _flags, file) {
        const content = await Deno.readFile(file!);
        await run.one(BundleSchema, await (await writing(run, DeployerService)).putBundle({ content }), bundleColumns);
      },
    }),
    node: buildRouteMap({ docs: { brief: "Machines and nodes" }, routes: machineRoutes }),
  },
});

function revisionOf(given: string | undefined): bigint {
  if (given === undefined) return 0n;
  if (/^[1-9]\d{0,17}$/.test(given)) return BigInt(given);
  throw fault(
    "invalid_argument",
    "usage",
    `Cannot read ${JSON.stringify(given)} as a revision: wanted a number above 0`,
  );
}
