import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { type Fault, systemClock } from "@ultracloud/base";
import { PortService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { OrgService, ProjectService, TokenService } from "@ultracloud/proto/iam/v1";
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

Deno.test("of 100 concurrent ports in a /26, over flaredb, 61 get addresses of their own and 39 are told it is full", async () => {
  await using test = await startTestStack({ components: ["chainfire", "flaredb", "iam", "prismnet"] });
  const { stack } = test;
  using clients = new DisposableStack();
  const adminToken = (await Deno.readTextFile(stack.adminTokenFile)).trim();
  const tokens = clients.use(createRpcClient(TokenService, { endpoints: [stack.endpoint("iam")] }));
  const { accessToken } = await tokens.bootstrapToken({ adminToken });
  const at = (name: string) => ({ endpoints: [stack.endpoint(name)], authorization: () => `Bearer ${accessToken}` });
  await clients.use(createRpcClient(OrgService, at("iam"))).createOrg({ name: "acme" });
  await clients.use(createRpcClient(ProjectService, at("iam"))).createProject({ org: "acme", name: "prod" });
  await clients.use(createRpcClient(VpcService, at("prismnet"))).createVpc({ project, name: "net" });
  const subnets = clients.use(createRpcClient(SubnetService, at("prismnet")));
  await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/26" });
  const ports = clients.use(createRpcClient(PortService, at("prismnet")));
  // They wait for each other: on a busy machine longer than a call has by default.
  const patient = { timeoutMs: 60_000 };
  const addresses: string[] = [], refusals: string[] = [];
  await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    const refusal = await outcome(async () => {
      addresses.push((await ports.createPort({ project, name: `p${i}`, subnet: "lan" }, patient)).ipAddress);
    });
    if (refusal !== "ok") refusals.push(refusal);
  }));
  assert.deepEqual([new Set(addresses).size, addresses.length], [61, 61]);
  assert.deepEqual(refusals, Array.from({ length: 39 }, () => "resource_exhausted/subnet_exhausted"));
});
