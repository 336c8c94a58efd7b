import { setupAuth } from "@ultracloud/authz";
import { FleetNodeService } from "@ultracloud/proto/fleetscheduler/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema, openNodeAgent } from "./mod.ts";

const name = "node-agent";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const { tls } = config.rpc;
  const nodes = stack.use(createRpcClient(FleetNodeService, {
    endpoints: config.peers["fleet-scheduler"],
    authorization: signer.authorization("fleet-scheduler"),
    tls,
  }));
  // Beside the identity: what may be started is as much of the host's word as who we are.
  const beside = config.identityKeyFile.slice(0, config.identityKeyFile.lastIndexOf("/"));
  const agent = stack.use(await openNodeAgent(config, { ...boot, nodes, version }, `${beside}/launcher`));
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [agent.service],
      authenticator,
      authorizer,
    }),
  );
});
