import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { type Fault, systemClock } from "@ultracloud/base";
import { PortService, SubnetService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";

const project = "acme/prod";

async function outcome(call: () => Promise<unknown>): Promise<string> {
  try {
    await call();
    return "ok";
  } catch (error) {
    const { kind, code } = error as Fault;
    return `${kind}/${code}`;
  }
}

Deno.test("prismnet under its own permissions starts before its stores, serves plasmavmc by its grants, and refuses others", async () => {
  await using test = await startTestStack({
    components: ["chainfire", "flaredb", "iam", "prismnet", "plasmavmc"],
    start: false,
  });
  const { stack } = test;
  stack.start("prismnet");
  const keyFile = `${stack.placement("plasmavmc").configDir}/identity.key`;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "plasmavmc", keyFile }, { clock: systemClock });
  using clients = new DisposableStack();
  const at = { endpoints: [stack.endpoint("prismnet")], authorization: signer.authorization("prismnet") };
  const ports = clients.use(createRpcClient(PortService, at));
  const subnets = clients.use(createRpcClient(SubnetService, at));
  const stranger = clients.use(createRpcClient(PortService, { endpoints: at.endpoints }));

  const settle = async (wanted: string, look: () => Promise<string>) => {
    const deadline = performance.now() + 30_000;
    for (;;) {
      const seen = await look();
      if (seen === wanted) return;
      assert.ok(performance.now() < deadline, `wanted ${wanted}, saw ${seen}`);
      await systemClock.sleep(20);
    }
  };
  await settle("503 starting", async () => {
    try {
      const answer = await fetch(`${stack.endpoint("prismnet")}/readyz`);
      return `${answer.status} ${(await answer.json()).state}`;
    } catch {
      return "no answer";
    }
  });
  const getPort = () => outcome(() => ports.getPort({ project, port: "p" }));
  assert.match(await getPort(), /^unavailable\//);
  stack.start("flaredb");
  await settle("not_found/port_not_found", getPort);
  assert.equal(await outcome(() => subnets.getSubnet({ project, subnet: "s" })), "not_found/subnet_not_found");
  assert.match(await outcome(() => subnets.deleteSubnet({ project, subnet: "s" })), /^permission_denied\//);
  assert.match(await outcome(() => stranger.getPort({ project, port: "p" })), /^unauthenticated\//);
  assert.equal(
    await outcome(() => ports.createPort({ project, name: "p", subnet: "s" })),
    "not_found/subnet_not_found",
  );
});
