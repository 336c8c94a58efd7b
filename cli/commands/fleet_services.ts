import type { JsonObject } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  FleetService,
  type Instance,
  InstancePhase,
  InstanceSchema,
  type Service,
  ServiceSchema,
  UpdateAction,
  UpdatePhase,
} from "@ultracloud/proto/fleetscheduler/v1";
import { parse as parseYaml } from "yaml";
import { type Column, enumName, humanAge } from "../frame/columns.ts";
import { command, parseInteger, type Run, text } from "../frame/command.ts";
import { metaColumns, pages } from "./_shared.ts";

/** How often a change that is waited for is looked at. */
const lookMs = 500;
const logWaitMs = 10_000;
const logChunkBytes = 256 * 1024;

const clientOf = ({ session }: Pick<Run, "session">) => session.client(FleetService, "fleet-scheduler");
const serviceArg = { brief: "Name of a service", placeholder: "service" } as const;
const all = (run: Pick<Run, "session">) =>
  pages((page) => clientOf(run).listServices({ page }), (response) => response.services);
const completeService = async (session: Run["session"]) => (await all({ session })).map(({ meta }) => meta!.name);
const completeInstance = async (session: Run["session"]) =>
  (await clientOf({ session }).listInstances({})).instances.map(({ id }) => id);

const serviceColumns: readonly Column<Service>[] = [
  { name: "name", get: (s) => s.meta?.name ?? "" },
  { name: "wanted", get: (s) => String(s.wanted), order: (s) => s.wanted },
  { name: "healthy", get: (s) => String(s.healthy), order: (s) => s.healthy },
  { name: "updated", get: (s) => String(s.updated), order: (s) => s.updated },
  { name: "unplaced", get: (s) => String(s.unplaced), order: (s) => s.unplaced },
  { name: "revision", get: (s) => String(s.revision), order: (s) => Number(s.revision) },
  { name: "update", get: (s) => s.deleting ? "deleting" : enumName(UpdatePhase, s.phase) },
  { name: "reason", get: (s) => s.reason },
  ...metaColumns<Service>().filter(({ name }) => name === "age"),
];

const instanceColumns: readonly Column<Instance>[] = [
  { name: "id", get: (i) => i.id },
  { name: "node", get: (i) => i.node },
  { name: "phase", get: (i) => i.stopping ? "stopping" : enumName(InstancePhase, i.phase) },
  { name: "revision", get: (i) => String(i.revision), order: (i) => Number(i.revision) },
  { name: "restarts", get: (i) => String(i.restarts), order: (i) => i.restarts },
  {
    name: "age",
    get: (i) => i.createTime ? humanAge(Number(i.createTime.seconds) * 1000, Date.now()) : "",
    order: (i) => -Number(i.createTime?.seconds ?? 0),
  },
  { name: "reason", get: (i) => i.stopping ? i.stopReason : i.reason },
  { name: "pid", get: (i) => String(i.pid), wide: true },
];

/** Services of a file: a cluster state, or `services` alone. */
function readServices(path: string): Record<string, JsonObject> {
  let parsed: unknown;
  try {
    // JSON is YAML.
    parsed = parseYaml(Deno.readTextFileSync(path));
  } catch (cause) {
    if (cause instanceof Error && cause.name.startsWith("YAML")) {
      throw fault("invalid_argument", "file_unusable", `Cannot read ${path}: ${cause.message.split("\n")[0]}`, {
        cause,
      });
    }
    throw cause;
  }
  const services = (parsed as { services?: unknown } | null)?.services;
  if (services === null || typeof services !== "object" || Array.isArray(services)) {
    throw fault(
      "invalid_argument",
      "file_unusable",
      `Cannot use ${path}: wanted an object "services" with a spec by name, as in the cluster state`,
    );
  }
  return services as Record<string, JsonObject>;
}

export const apply = command<{ file: string; force: boolean; prune: boolean }>({
  brief: "Make services what a file says",
  details: "The file is a cluster state or has its `services` alone, as JSON or YAML. A change of what instances are " +
    "started from replaces them by the service's update policy; waits until they stand unless --no-wait.",
  flags: {
    file: { kind: "parsed", parse: text, brief: "File with the services" },
    force: { kind: "boolean", default: false, brief: "Also what was rolled back before" },
    prune: { kind: "boolean", default: false, brief: "Delete services that the file does not have" },
  },
  dryRunOnServer: true,
  async run(run, flags) {
    const wanted = readServices(flags.file);
    const client = clientOf(run);
    const { dryRun } = run.flags;
    const touched: string[] = [];
    for (const [name, spec] of Object.entries(wanted)) {
      const { created, changes, replaces } = await client.applyService({ name, spec, dryRun, force: flags.force });
      const what = created ? "new" : changes.length === 0 ? "unchanged" : replaces ? "changed, replaces" : "changed";
      run.io.err(`${dryRun ? "would be: " : ""}${name}: ${what}\n`);
      for (const { path, before, after } of changes) {
        run.io.err(`  ${path}: ${before || "absent"} -> ${after || "absent"}\n`);
      }
      if (created || changes.length > 0) touched.push(name);
    }
    const extra = flags.prune ? (await all(run)).map(({ meta }) => meta!.name).filter((name) => !(name in wanted)) : [];
    if (extra.length > 0) {
      run.io.err(`${dryRun ? "would be: " : ""}not in the file: ${extra.join(", ")}\n`);
      if (!dryRun) {
        run.confirm(`Delete ${extra.join(", ")}?`);
        for (const name of extra) await client.deleteService({ name });
      }
    }
    if (!dryRun && run.flags.wait) { for (const name of touched) await waitForUpdate(run, name); }
    if (!dryRun) {
      await run.list(
        ServiceSchema,
        (await all(run)).filter(({ meta }) => meta!.name in wanted),
        serviceColumns,
      );
    }
  },
});

/** Shows how a service changes until it stands; a change that failed or waits for a word is a failure. */
async function waitForUpdate(run: Run, name: string): Promise<void> {
  const deadline = performance.now() + run.flags.timeout;
  const { io } = run;
  for (let shown = "";;) {
    const service = await clientOf(run).getService({ name });
    const { phase, healthy, updated, wanted, unplaced, reason } = service;
    const short = unplaced > 0 ? `, ${unplaced} without a place` : "";
    const line = `${name}: ${updated} of ${wanted} updated, ${healthy} healthy${short}`;
    if (line !== shown) io.err(io.interactive ? `\r\x1b[K${line}` : `${line}\n`);
    shown = line;
    const over = phase !== UpdatePhase.ROLLING && !(phase === UpdatePhase.CANARY && reason === "");
    if (over || performance.now() > deadline) {
      if (io.interactive) io.err("\r\x1b[K");
      if (phase === UpdatePhase.NONE) return;
      if (over) {
        throw fault("failed_precondition", "update_not_done", `${name} is ${enumName(UpdatePhase, phase)}: ${reason}`);
      }
      throw fault("deadline_exceeded", "wait_timeout", `Cannot wait longer for ${name}: it goes on by itself`);
    }
    await new Promise((resolve) => setTimeout(resolve, lookMs));
  }
}

export const services = buildRouteMap({
  docs: { brief: "Services: what there shall be and how far it is" },
  routes: {
    list: command({
      brief: "List services",
      run: async (run) => await run.list(ServiceSchema, await all(run), serviceColumns),
    }),
    get: command({
      brief: "Show one service; -o yaml prints its spec",
      args: [serviceArg],
      complete: completeService,
      run: async (run, _flags, name) =>
        await run.one(ServiceSchema, await clientOf(run).getService({ name: name! }), serviceColumns),
    }),
    delete: command({
      brief: "Stop all instances of a service and forget it",
      args: [serviceArg],
      complete: completeService,
      async run(run, _flags, name) {
        run.confirm(`Stop and delete the service ${name}?`);
        await clientOf(run).deleteService({ name: name! });
        run.io.err(`${name} is being deleted\n`);
      },
    }),
  },
});

export const instances = command<{ service?: string; node?: string }>({
  brief: "List instances: where they run and how they are",
  flags: {
    service: { kind: "parsed", parse: text, optional: true, brief: "Of this service only" },
    node: { kind: "parsed", parse: text, optional: true, brief: "On this node only" },
  },
  async run(run, { service = "", node = "" }) {
    await run.list(InstanceSchema, (await clientOf(run).listInstances({ service, node })).instances, instanceColumns);
  },
});

export const why = command({
  brief: "Why a service has instances without a place, node by node",
  args: [serviceArg],
  complete: completeService,
  async run(run, _flags, name) {
    const { unplaced, refusals, openNodes, sinceTime } = await clientOf(run).explainPlacement({ name: name! });
    const since = sinceTime === undefined ? "" : ` since ${timestampDate(sinceTime).toISOString()}`;
    run.io.err(`${name}: ${unplaced === 0 ? "every instance has a place" : `${unplaced} without a place${since}`}\n`);
    const rows = [
      ...openNodes.map((node) => ({ node, reason: "would take another one" })),
      ...Object.entries(refusals).map(([node, reason]) => ({ node, reason })),
    ];
    await run.items(rows.map((value) => ({ value, json: { ...value }, name: value.node })), [
      { name: "node", get: (row) => row.node },
      { name: "reason", get: (row) => row.reason },
    ]);
  },
});

export const logs = command<{ follow: boolean; bytes: number }>({
  brief: "Print what an instance has written",
  args: [{ brief: "Id of an instance", placeholder: "instance" }],
  complete: completeInstance,
  flags: {
    follow: { kind: "boolean", default: false, brief: "Go on as more comes, until interrupted" },
    bytes: { kind: "parsed", parse: parseInteger, default: "65536", brief: "How much of the end; 0: all that is kept" },
  },
  async run(run, { follow, bytes }, instance) {
    if (bytes < 0) throw fault("invalid_argument", "invalid_flag", `Cannot print ${bytes} bytes: wanted 0 or more`);
    const client = clientOf(run);
    const decoder = new TextDecoder();
    let offset = bytes === 0 ? 0n : BigInt(-bytes);
    for (;;) {
      const part = await client.readLog({
        instance: instance!,
        offset,
        limit: logChunkBytes,
        waitMs: follow ? logWaitMs : 0,
      }, { timeoutMs: logWaitMs + 20_000 });
      run.io.out(decoder.decode(part.data, { stream: true }));
      if (!follow && part.data.length === 0) return;
      offset = part.nextOffset;
    }
  },
});

const steerBy = (action: UpdateAction, brief: string) =>
  command({
    brief,
    args: [serviceArg],
    complete: completeService,
    async run(run, _flags, name) {
      await run.one(ServiceSchema, await clientOf(run).steerUpdate({ name: name!, action }), serviceColumns);
    },
  });

export const steer = buildRouteMap({
  docs: { brief: "Steer the update of a service" },
  routes: {
    pause: steerBy(UpdateAction.PAUSE, "Leave old and new instances as they are"),
    resume: steerBy(UpdateAction.RESUME, "Go on where it was paused"),
    promote: steerBy(UpdateAction.PROMOTE, "Let the rest follow the canaries"),
    rollback: steerBy(UpdateAction.ROLL_BACK, "Go back to what stood before"),
  },
});
