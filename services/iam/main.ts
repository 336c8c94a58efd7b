import { createWorkloadSigner, loadTrust } from "@ultracloud/authz";
import { flaredbBackend, openPlatform } from "@ultracloud/platform";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import { createIam, loadAuthoritySeed, loadSecrets } from "./mod.ts";

const name = "iam";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack, clock } = boot;
  const { tls } = config.rpc;
  const secrets = await loadSecrets({ ...config, env: (variable) => Deno.env.get(variable) }, boot);
  const authoritySeed = await loadAuthoritySeed(config, boot);
  const trust = await loadTrust(config.trustFile, { clock });
  const { clusterId, identityKeyFile: keyFile } = config;
  const signer = await createWorkloadSigner({ clusterId, name, keyFile }, { clock });
  const at = { endpoints: config.peers.flaredb, authorization: signer.authorization("flaredb"), tls };
  const kv = flaredbBackend({
    kv: stack.use(createRpcClient(KvService, at)),
    databases: stack.use(createRpcClient(DatabaseService, at)),
  }, `sys_${name}`);
  const platform = openPlatform({ service: name }, { ...boot, kv });
  const masterKeyNextFile = config.masterKeyNextFile ?? `${config.stateDir}/master.next.key`;
  const iam = createIam({ ...config, masterKeyNextFile, secrets, authoritySeed }, { ...boot, platform, trust, signer });
  iam.trail.expose(boot.registry);
  const running = iam.run(boot.signal);
  stack.defer(() => running);
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      ...iam,
      audit: (record) => iam.trail.note(record),
    }),
  );
});
