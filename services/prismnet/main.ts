import { setupAuth } from "@ultracloud/authz";
import { flaredbBackend, openPlatform, runBackground } from "@ultracloud/platform";
import { KvService as CoordinationService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { NetAgentService } from "@ultracloud/proto/netagent/v1";
import { clientsByUrl, createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import { createPrismnet, openNorthbound, ovnEngine, userEngine } from "./mod.ts";

const name = "prismnet";
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
  }, `sys_${name}`);
  const coordination = {
    kv: stack.use(createRpcClient(CoordinationService, at("chainfire"))),
    leases: stack.use(createRpcClient(LeaseService, at("chainfire"))),
  };
  const platform = openPlatform({ service: name }, { ...boot, kv });
  const northbound = config.engine === "ovn" ? stack.use(openNorthbound(config, boot)) : undefined;
  const engine = northbound ? ovnEngine(northbound) : userEngine(config, boot);
  const agents = stack.use(clientsByUrl(NetAgentService, { authorization: signer.authorization("net-agent"), tls })).of;
  const { services, follow, reconcile } = createPrismnet({
    platform,
    engine,
    addressGraceMs: config.addressGraceMs,
    ...(northbound ? { northbound, agents } : {}),
  });
  stack.use(follow());
  stack.use(runBackground({ name, clients: coordination }, { ...boot, kv }, reconcile));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, { ...boot, services, authenticator, authorizer }),
  );
});
