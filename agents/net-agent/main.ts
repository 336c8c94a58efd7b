import { setupAuth } from "@ultracloud/authz";
import { HostService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema, hostPrograms, openNetAgent } from "./mod.ts";

const name = "net-agent";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const { tls } = config.rpc;
  const prismnet = { endpoints: config.peers.prismnet, authorization: signer.authorization("prismnet"), tls };
  const hosts = stack.use(createRpcClient(HostService, prismnet));
  const agent = stack.use(openNetAgent(config, { ...boot, hosts, programs: hostPrograms() }));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [agent.service],
      authenticator,
      authorizer,
    }),
  );
});
