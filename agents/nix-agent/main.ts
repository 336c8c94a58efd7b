import { setupAuth } from "@ultracloud/authz";
import { KvService, LeaseService } from "@ultracloud/proto/chainfire/v1";
import { AgentService } from "@ultracloud/proto/deployer/v1";
import { createRpcClient, runComponent, startRpcServer } from "@ultracloud/rpc";
import { configSchema, openNixAgent } from "./mod.ts";

const name = "nix-agent";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { tls } = config.rpc;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const at = (callee: "deployer" | "chainfire") => ({
    endpoints: config.peers[callee],
    authorization: signer.authorization(callee),
    tls,
  });
  const agent = await openNixAgent(config, {
    ...boot,
    version,
    deployer: stack.use(createRpcClient(AgentService, at("deployer"))),
    chainfire: {
      kv: stack.use(createRpcClient(KvService, at("chainfire"))),
      leases: stack.use(createRpcClient(LeaseService, at("chainfire"))),
    },
  });
  const running = agent.run(boot.signal);
  stack.defer(() => running);
  stack.use(
    await startRpcServer({ name, version, ...config.rpc }, {
      ...boot,
      services: [agent.service],
      authenticator,
      authorizer,
    }),
  );
});
