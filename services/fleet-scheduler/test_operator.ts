import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { Fault, systemClock } from "@ultracloud/base";
import { FleetNodeService, FleetService, type Instance, InstancePhase } from "@ultracloud/proto/fleetscheduler/v1";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";
import { startTestStack, type TestStack } from "@ultracloud/testing";

/** Real stores, scheduler and one node's agent, and the operator's clients. */
export interface FleetStack extends TestStack {
  readonly fleet: RpcClient<typeof FleetService>;
  readonly nodes: RpcClient<typeof FleetNodeService>;
  /** Directory for what services of the test write. */
  readonly dir: string;
  instances(service: string): Promise<Instance[]>;
  /** Waits until the service has so many healthy instances; answers them. */
  healthy(service: string, count: number): Promise<Instance[]>;
}

export async function startFleet(overrides: Record<string, Record<string, unknown>> = {}): Promise<FleetStack> {
  const test = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "fleet-scheduler", "node-agent"],
    overrides: { "fleet-scheduler": { tickMs: 100, ...overrides["fleet-scheduler"] }, "node-agent": { tickMs: 100 } },
  });
  const { stack } = test;
  const stuff = new AsyncDisposableStack();
  stuff.use(test);
  const signer = await createWorkloadSigner(
    { clusterId: "test", name: "operator", keyFile: stack.operatorKeyFile },
    { clock: systemClock },
  );
  const at = { endpoints: [stack.endpoint("fleet-scheduler")], authorization: signer.authorization("fleet-scheduler") };
  const fleet = stuff.use(createRpcClient(FleetService, at));
  const nodes = stuff.use(createRpcClient(FleetNodeService, at));
  const dir = `${stack.dataDir}/work`;
  await Deno.mkdir(dir);
  const instances = async (service: string) => (await fleet.listInstances({ service })).instances;
  return {
    stack,
    fleet,
    nodes,
    dir,
    instances,
    async healthy(service, count) {
      let all: Instance[] = [];
      await eventually(`${service} has ${count} healthy instances`, async () => {
        all = await instances(service);
        const up = all.filter(({ phase, stopping, pid }) =>
          !stopping && pid > 0 && (phase === InstancePhase.HEALTHY || phase === InstancePhase.RUNNING)
        );
        return up.length === count && all.length === count;
      }, () => JSON.stringify(all, (_, v) => typeof v === "bigint" ? Number(v) : v));
      return all;
    },
    [Symbol.asyncDispose]: () => stuff.disposeAsync(),
  };
}

/** Resolves once the condition holds; fails after a minute with what was seen. A server that is away is waited for. */
export async function eventually(what: string, holds: () => Promise<boolean>, seen = () => ""): Promise<void> {
  const look = async () => {
    try {
      return await holds();
    } catch (error) {
      if (error instanceof Fault && error.kind === "unavailable") return false;
      throw error;
    }
  };
  for (const end = performance.now() + 60_000; !await look();) {
    assert.ok(performance.now() < end, `Waited too long until ${what}; saw ${seen()}`);
    await systemClock.sleep(50);
  }
}
