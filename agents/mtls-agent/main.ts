import { createAuthenticator, createAuthorizer, createWorkloadSigner, loadTrust, svcId } from "@ultracloud/authz";
import { TrustService } from "@ultracloud/proto/deployer/v1";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema } from "./config.ts";
import { Keeper, type Kept } from "./keeper.ts";
import { TrustKeeper } from "./trust_keeper.ts";

const name = "mtls-agent";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack, clock } = boot;
  const { clusterId, identityKeyFile: keyFile } = config;
  const { tls } = config.rpc;
  const trust = await loadTrust(config.trustFile, { clock });
  const own = await createWorkloadSigner({ clusterId, name, keyFile }, { clock });
  const at = (signer: typeof own) =>
    stack.use(
      createRpcClient(CertificateService, {
        endpoints: config.peers.iam,
        authorization: signer.authorization("iam"),
        tls,
      }),
    );
  const kept: Kept[] = [];
  for (const { identity, instance, identityKeyFile, ...place } of config.certificates) {
    const id = `spiffe://${clusterId}/${identity}`;
    const signer = await createWorkloadSigner({ clusterId, name, id, keyFile: identityKeyFile }, { clock });
    kept.push({ spiffeId: instance === undefined ? id : `${id}/${instance}`, client: at(signer), ...place });
  }
  const { deployer } = config.peers;
  if (deployer.length > 0) {
    const authorization = own.authorization("deployer");
    const client = stack.use(createRpcClient(TrustService, { endpoints: deployer, authorization, tls }));
    const renewing = new TrustKeeper(config, { ...boot, client, trust }).run(boot.signal);
    stack.defer(() => renewing);
  }
  const keeper = new Keeper(config, { ...boot, authorities: at(own), kept });
  const running = keeper.run(boot.signal);
  stack.defer(() => running);
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [],
      authenticator: createAuthenticator({ audience: svcId(clusterId, name) }, { trust, clock }),
      authorizer: createAuthorizer({ trust, clock }),
    }),
  );
});
