import { setupAuth } from "@ultracloud/authz";
import { chainfireLeases, flaredbBackend, openPlatform, runBackground } from "@ultracloud/platform";
import { KvService as CoordinationService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { FetchService } from "@ultracloud/proto/fetcher/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { PortService, SecurityGroupService, SubnetService } from "@ultracloud/proto/prismnet/v1";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { clientsByUrl, createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import { consoleSocket, createPlasmavmc, localQuota, localVolumes, openLocalImages } from "./mod.ts";

const name = "plasmavmc";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { peers } = config;
  const { tls } = config.rpc;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name, policy: { endpoints: peers.iam } });
  const at = (callee: "flaredb" | "chainfire" | "prismnet") => ({
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
  const platform = openPlatform({ service: name, sagaConcurrency: config.operationsAtOnce }, { ...boot, kv });
  const { services, reconcile } = createPlasmavmc({
    images: { bytesMax: config.imageBytesMax, virtualBytesMax: config.imageVirtualBytesMax },
    fenceGraceMs: config.fenceGraceMs,
    reconcileMs: config.reconcileMs,
  }, {
    platform,
    images: await openLocalImages({ dir: `${config.stateDir}/images` }, boot),
    quota: localQuota(config.quota, platform),
    volumes: localVolumes,
    fetcher: peers.fetcher && stack.use(
      createRpcClient(FetchService, {
        endpoints: peers.fetcher,
        authorization: signer.authorization("fetcher"),
        tls,
      }),
    ),
    leases: chainfireLeases({ ttlMs: config.nodeLeaseTtlMs, prefix: "/ultracloud/plasmavmc/nodes/" }, coordination),
    network: {
      ports: stack.use(createRpcClient(PortService, at("prismnet"))),
      subnets: stack.use(createRpcClient(SubnetService, at("prismnet"))),
      groups: stack.use(createRpcClient(SecurityGroupService, at("prismnet"))),
    },
    agents: stack.use(clientsByUrl(VmAgentService, { authorization: signer.authorization("vm-agent"), tls })).of,
  });
  stack.use(runBackground({ name, clients: coordination }, { ...boot, kv }, reconcile));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services,
      authenticator,
      authorizer,
      http: consoleSocket(boot),
    }),
  );
});
