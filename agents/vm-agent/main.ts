import { setupAuth } from "@ultracloud/authz";
import { ImageService, NodeService } from "@ultracloud/proto/plasmavmc/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema, openVmAgent } from "./mod.ts";

const name = "vm-agent";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const { tls } = config.rpc;
  const peer = {
    endpoints: config.peers.plasmavmc,
    authorization: signer.authorization("plasmavmc"),
    tls,
  };
  const agent = stack.use(openVmAgent(config, {
    ...boot,
    version,
    nodes: stack.use(createRpcClient(NodeService, peer)),
    images: stack.use(createRpcClient(ImageService, peer)),
  }));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [agent.service],
      authenticator,
      authorizer,
    }),
  );
});
