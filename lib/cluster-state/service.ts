import { z } from "zod";
import { absolutePathSchema, commandSchema, labelsSchema, nameSchema } from "./_names.ts";
import { storePathSchema } from "./store_path.ts";

const hourMs = 3_600_000;
const durationMs = z.number().int().min(1).max(24 * hourMs);

const httpCheck = z.strictObject({
  kind: z.literal("http"),
  port: nameSchema,
  path: z.string().startsWith("/").default("/"),
});
const tcpCheck = z.strictObject({ kind: z.literal("tcp"), port: nameSchema });
const execCheck = z.strictObject({
  kind: z.literal("exec"),
  command: commandSchema,
});
const checkTimes = {
  graceMs: z.number().int().min(0).max(hourMs).default(1_000),
  intervalMs: durationMs.default(2_000),
  timeoutMs: durationMs.default(2_000),
  failuresMax: z.number().int().min(1).max(100).default(3).describe(
    "Failures in a row that make it unhealthy",
  ),
};
const healthCheckSchema = z.discriminatedUnion("kind", [
  httpCheck.extend(checkTimes),
  tcpCheck.extend(checkTimes),
  execCheck.extend(checkTimes),
]);

const constraintSchema = z.strictObject({
  label: z.string().min(1).max(63),
  operator: z.enum(["in", "not-in", "exists", "absent"]).default("in"),
  values: z.array(z.string().max(128)).max(64).default([]),
});

/**
 * One service that runs on the hosts themselves. fleet-scheduler places its instances, node-agent runs them. A changed
 * spec is a new version: instances are replaced, never patched in place.
 */
export const serviceSchema = z.strictObject({
  command: commandSchema.optional().describe(
    "What is started; either this or closure",
  ),
  closure: storePathSchema.optional().describe(
    "A store path that is there; program names a file below it",
  ),
  program: z.string().max(512).regex(/^(?!\/)(?!.*\.\.)[A-Za-z0-9._\/+-]+$/)
    .default("bin/run").describe(
      "Path below the closure",
    ),
  args: z.array(z.string().max(4096)).max(64).default([]),
  env: z.record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/),
    z.string().max(32_768),
  ).default({}),
  secrets: z.array(z.strictObject({
    name: nameSchema.describe(
      "Name of the file the instance finds in its credentials directory",
    ),
    file: absolutePathSchema.describe(
      "File of the host that must exist; its content is never in argv or env",
    ),
  })).max(32).default([]),
  ports: z.record(
    nameSchema,
    z.strictObject({
      port: z.number().int().min(1).max(65_535),
      protocol: z.enum(["tcp", "udp"]).default("tcp"),
    }),
  ).default({}).describe(
    "Host ports; two instances with one port never share a node",
  ),
  volumes: z.array(z.strictObject({
    path: absolutePathSchema.describe(
      "Directory of the host; it is checked, never made",
    ),
    readOnly: z.boolean().default(false),
  })).max(32).default([]),
  healthCheck: healthCheckSchema.optional().describe(
    "Without one a running process counts as healthy",
  ),
  restart: z.strictObject({
    policy: z.enum(["always", "on-failure", "never"]).default("always"),
    backoffMsMin: durationMs.default(500),
    backoffMsMax: durationMs.default(60_000),
  }).default({ policy: "always", backoffMsMin: 500, backoffMsMax: 60_000 }),
  stopGraceMs: z.number().int().min(0).max(hourMs).default(10_000).describe(
    "Between SIGTERM and SIGKILL",
  ),
  mode: z.enum(["replicas", "per-node"]).default("replicas").describe(
    "per-node: one on every node that matches, whatever replicas says; leaves a drained node last",
  ),
  replicas: z.number().int().min(0).max(10_000).default(1),
  spread: z.array(z.string().min(1).max(63)).max(8).default(["node"]).describe(
    "node, pool, class or a label: instances are spread over its values, the first before the others",
  ),
  classes: z.array(nameSchema).max(64).default([]).describe(
    "Node classes it may run on; empty: all",
  ),
  pools: z.array(nameSchema).max(64).default([]).describe(
    "Pools it may run in; empty: all",
  ),
  constraints: z.array(constraintSchema).max(32).default([]).describe(
    "All must hold for a node",
  ),
  affinity: z.array(z.strictObject({
    service: nameSchema,
    rule: z.enum(["require", "prefer", "avoid", "forbid"]),
  })).max(32).default([]).describe(
    "Nodes that run an instance of the other service",
  ),
  resources: z.strictObject({
    cpuMillis: z.number().int().min(0).max(1_024_000).default(0),
    memoryBytes: z.number().int().min(0).default(0),
  }).default({ cpuMillis: 0, memoryBytes: 0 }),
  limits: z.strictObject({
    cpuMillis: z.number().int().min(10).max(1_024_000).optional(),
    memoryBytes: z.number().int().min(2 ** 20).optional(),
    tasksMax: z.number().int().min(1).max(1_000_000).optional().describe("Processes and threads"),
    required: z.boolean().default(false).describe(
      "true: an instance does not start on a host that cannot hold them; else it starts and says so",
    ),
  }).optional().describe("What an instance may take at most, by control groups; resources is what is set aside for it"),
  update: z.strictObject({
    strategy: z.enum(["rolling", "canary"]).default("rolling"),
    order: z.enum(["start-first", "stop-first"]).default("start-first").describe(
      "stop-first: never more instances than replicas, for what must not run twice",
    ),
    canaries: z.number().int().min(1).max(1000).default(1).describe(
      "Instances of the new version that go first",
    ),
    autoPromote: z.boolean().default(true).describe(
      "Healthy canaries are followed by the rest without being asked",
    ),
    maxParallel: z.number().int().min(1).max(1000).default(1),
    minHealthyMs: z.number().int().min(0).max(hourMs).default(2_000).describe(
      "How long a new instance must be healthy to count",
    ),
    deadlineMs: durationMs.default(300_000).describe(
      "An instance that is not healthy by then has failed",
    ),
    autoRollback: z.boolean().default(true).describe(
      "Back to the version before when an instance fails",
    ),
  }).default({
    strategy: "rolling",
    order: "start-first",
    canaries: 1,
    autoPromote: true,
    maxParallel: 1,
    minHealthyMs: 2_000,
    deadlineMs: 300_000,
    autoRollback: true,
  }),
  drain: z.strictObject({
    maxParallel: z.number().int().min(1).max(1000).default(1).describe(
      "Instances of it that move at once",
    ),
    minHealthyMs: z.number().int().min(0).max(hourMs).default(2_000),
  }).default({ maxParallel: 1, minHealthyMs: 2_000 }),
  lostReplaceDelayMs: z.number().int().min(0).max(24 * hourMs).default(30_000)
    .describe(
      "How long a lost node may take to come back before its instances are replaced",
    ),
  labels: labelsSchema,
}).superRefine((service, context) => {
  const refuse = (path: (string | number)[], message: string) => context.addIssue({ code: "custom", path, message });
  if ((service.command === undefined) === (service.closure === undefined)) {
    refuse(["command"], "must be there when closure is not, and only then");
  }
  if (service.restart.backoffMsMin > service.restart.backoffMsMax) {
    refuse(["restart", "backoffMsMax"], "must not be below backoffMsMin");
  }
  const check = service.healthCheck;
  if (
    check && check.kind !== "exec" &&
    service.ports[check.port]?.protocol !== "tcp"
  ) {
    refuse(
      ["healthCheck", "port"],
      `must name a TCP port of the service, not ${check.port}`,
    );
  }
  for (const [i, { operator, values }] of service.constraints.entries()) {
    const wants = operator === "in" || operator === "not-in";
    if (wants !== values.length > 0) {
      refuse(
        ["constraints", i, "values"],
        wants ? `must hold what ${operator} compares with` : `has no meaning with ${operator}`,
      );
    }
  }
  for (const name of ["cpuMillis", "memoryBytes"] as const) {
    const most = service.limits?.[name];
    if (most !== undefined && most < service.resources[name]) {
      refuse(["limits", name], `must not be below what resources sets aside, ${service.resources[name]}`);
    }
  }
  const names = service.secrets.map(({ name }) => name);
  const twice = names.findIndex((name, i) => names.indexOf(name) !== i);
  if (twice >= 0) {
    refuse(["secrets", twice, "name"], `${names[twice]} is there twice`);
  }
});

export type ServiceSpec = z.infer<typeof serviceSchema>;
