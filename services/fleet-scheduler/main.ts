import { setupAuth } from "@ultracloud/authz";
import { chainfireLeases, flaredbBackend, openPlatform, runBackground } from "@ultracloud/platform";
import { KvService as CoordinationService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { NodeAgentService } from "@ultracloud/proto/nodeagent/v1";
import { clientsByUrl, createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema, createFleetScheduler } from "./mod.ts";

const name = "fleet-scheduler";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { peers } = config;
  const { tls } = config.rpc;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name, policy: { endpoints: peers.iam } });
  const at = (callee: "flaredb" | "chainfire") => ({
    endpoints: peers[callee],
    authorization: signer.authorization(callee),
    tls,
  });
  const kv = flaredbBackend({
    kv: stack.use(createRpcClient(KvService, at("flaredb"))),
    databases: stack.use(createRpcClient(DatabaseService, at("flaredb"))),
  }, "sys_fleet_scheduler");
  const coordination = {
    kv: stack.use(createRpcClient(CoordinationService, at("chainfire"))),
    leases: stack.use(createRpcClient(LeaseService, at("chainfire"))),
  };
  const leases = chainfireLeases(
    { ttlMs: config.nodeLeaseTtlMs, prefix: "/ultracloud/fleet-scheduler/nodes/" },
    coordination,
  );
  const agents = stack.use(
    clientsByUrl(NodeAgentService, { authorization: signer.authorization("node-agent"), tls }),
  );
  const { services, reconcile } = createFleetScheduler({ tickMs: config.tickMs }, {
    ...boot,
    platform: openPlatform({ service: name }, { ...boot, kv }),
    leases,
    agents: agents.of,
    kv: coordination.kv,
  });
  stack.use(runBackground({ name, clients: coordination }, { ...boot, kv }, reconcile));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, { ...boot, services, authenticator, authorizer }),
  );
});
