import { setupAuth, signTrust } from "@ultracloud/authz";
import { flaredbBackend, openPlatform, runBackground } from "@ultracloud/platform";
import { KvService as CoordinationService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import {
  bindAgents,
  bundleBytesMax,
  createDeployer,
  labModeWarning,
  listenBootstrap,
  openBundleSigner,
} from "./mod.ts";

const name = "deployer";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack, health } = boot;
  const { tls, listen } = config.rpc;
  const { iam } = config.peers;
  const auth = await setupAuth(boot, { name, ...(iam.length === 0 ? {} : { policy: { endpoints: iam } }) });
  const at = (callee: "flaredb" | "chainfire") => ({
    endpoints: config.peers[callee],
    authorization: auth.signer.authorization(callee),
    tls,
  });
  const kv = flaredbBackend({
    kv: stack.use(createRpcClient(KvService, at("flaredb"))),
    databases: stack.use(createRpcClient(DatabaseService, at("flaredb"))),
  }, `sys_${name}`);
  const clients = {
    kv: stack.use(createRpcClient(CoordinationService, at("chainfire"))),
    leases: stack.use(createRpcClient(LeaseService, at("chainfire"))),
  };
  const caFile = config.bootstrap.tls?.caFile;
  const deployer = createDeployer({
    ...config,
    version,
    advertiseUrl: config.advertiseUrl ?? `${tls ? "https" : "http"}://${listen}`,
    bootstrapUrl: config.bootstrap.url ?? `${config.bootstrap.tls ? "https" : "http"}://${config.bootstrap.listen}`,
    chainfireUrls: config.peers.chainfire,
    ...(caFile === undefined ? {} : { caPem: () => Deno.readTextFile(caFile) }),
  }, {
    platform: openPlatform({ service: name }, { ...boot, kv }),
    bundleSigner: await openBundleSigner(config.identityKeyFile),
    coordination: clients.kv,
    identities: {
      trust: auth.trust,
      sign: (file) => signTrust(file, auth.signer),
      // In the name of the machine that asks: its token is in each call, ours in none.
      ...(iam.length === 0
        ? {}
        : { certificates: stack.use(createRpcClient(CertificateService, { endpoints: iam, tls })) }),
    },
  });
  if (config.allow_unauthenticated) {
    boot.log.warn(labModeWarning);
    health.set("enrolment", "degraded", labModeWarning);
  }
  stack.use(runBackground({ name, clients, leaseTtlMs: config.leaseTtlMs }, { ...boot, kv }, deployer.lead));
  stack.use(listenBootstrap(config.bootstrap, { api: deployer.api, log: boot.log }));
  stack.use(
    await startRpcServer({
      name,
      version,
      ...config.rpc,
      limits: { messageBytesMax: bundleBytesMax + 2 ** 20, ...config.rpc.limits },
    }, {
      ...boot,
      services: deployer.services,
      ...bindAgents(config.clusterId, auth),
    }),
  );
});
