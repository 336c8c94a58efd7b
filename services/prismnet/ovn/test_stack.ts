import { seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { openOvsdb } from "@ultracloud/ovsdb";
import { OrgService, ProjectService, TokenService } from "@ultracloud/proto/iam/v1";
import {
  Direction,
  PortService,
  Protocol,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";
import { northboundTables } from "./northbound.ts";

export const project = "acme/prod";
const components = ["chainfire", "flaredb", "iam", "prismnet", "net-agent"];

/**
 * The real components under their pinned permissions on OVN, with a project that lets pings in; for programs that run in
 * a network namespace of their own, as the agent makes bridges where it stands.
 */
export async function startNetworkStack() {
  await using building = new AsyncDisposableStack();
  const { stack } = building.use(
    await startTestStack({
      components,
      overrides: { prismnet: { engine: "ovn" }, "net-agent": { bridgePrefix: "uct" } },
      start: false,
    }),
  );
  const runDir = stack.placement("net-agent").runDir;

  async function health(name: string): Promise<string> {
    try {
      return JSON.stringify(await (await fetch(`${stack.endpoint(name)}/readyz`)).json());
    } catch (error) {
      return String(error);
    }
  }
  async function until(what: string, look: () => Promise<boolean> | boolean): Promise<void> {
    for (const deadline = performance.now() + 90_000; !await look();) {
      if (performance.now() > deadline) {
        const logs = await Promise.all(["net-agent", "prismnet"].map((n) => Deno.readTextFile(stack.logFile(n))));
        const seen = `${await health("net-agent")} ${await health("prismnet")}`;
        throw new Error(`waited in vain until ${what}: ${seen}\n${logs.map((l) => l.slice(-2_000)).join("\n")}`);
      }
      await systemClock.sleep(50);
    }
  }
  const ready = async (name: string) => JSON.parse(await health(name).catch(() => "{}")).state === "ready";
  const isReady = (name: string) => () => ready(name).catch(() => false);

  for (const name of components) stack.start(name);
  for (const name of components) await until(`${name} is ready`, isReady(name));
  await until("prismnet has its northbound database", async () => !(await health("prismnet")).includes("degraded"));

  const adminToken = (await Deno.readTextFile(stack.adminTokenFile)).trim();
  const tokens = building.use(createRpcClient(TokenService, { endpoints: [stack.endpoint("iam")] }));
  const { accessToken } = await tokens.bootstrapToken({ adminToken });
  // Longer than any wait for a port: a prismnet that was killed leads again only when its lease of ten seconds has ended.
  const timeoutMs = 45_000;
  const at = (name: string) => ({
    endpoints: [stack.endpoint(name)],
    authorization: () => `Bearer ${accessToken}`,
    timeoutMs,
  });
  await building.use(createRpcClient(OrgService, at("iam"))).createOrg({ name: "acme" });
  await building.use(createRpcClient(ProjectService, at("iam"))).createProject({ org: "acme", name: "prod" });
  const vpcs = building.use(createRpcClient(VpcService, at("prismnet")));
  const subnets = building.use(createRpcClient(SubnetService, at("prismnet")));
  const groups = building.use(createRpcClient(SecurityGroupService, at("prismnet")));
  const ports = building.use(createRpcClient(PortService, at("prismnet")));
  await vpcs.createVpc({ project, name: "net" });
  await groups.createSecurityGroup({
    project,
    name: "ping",
    rules: [
      { direction: Direction.INGRESS, protocol: Protocol.ICMP },
      { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
    ],
  });
  const nb = building.use(openOvsdb({
    endpoint: { transport: "unix", path: `${runDir}/nb.sock` },
    database: "OVN_Northbound",
    tables: northboundTables,
  }, { clock: systemClock, rng: seededRng(1), log: noopLogger }));
  await nb.ready(AbortSignal.timeout(60_000));
  const kept = building.move();
  return {
    stack,
    runDir,
    stateDir: stack.placement("net-agent").stateDir,
    until,
    isReady,
    subnets,
    groups,
    ports,
    nb,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
