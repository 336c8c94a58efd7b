import { setupAuth } from "@ultracloud/authz";
import { PeerTransport } from "@ultracloud/replica";
import { runComponent, startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import { configSchema, createChainfire } from "./mod.ts";

const name = "chainfire";
const version = "0.1.0";
/** Above what one call between members carries. */
const peerMessageBytesMax = 16 * 2 ** 20;

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack } = boot;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const others = config.members.filter(({ id }) => id !== config.memberId);
  const peers = Object.fromEntries(others.map(({ id, peerUrl }) => [id, peerUrl]));
  const transport = config.peer === undefined ? undefined : stack.use(
    new PeerTransport({ clusterId: config.clusterId, peers, tls: config.peer?.tls }, {
      ...boot,
      authorization: signer.authorization(name),
    }),
  );
  // Nothing more may be written once the disk has lied: not even an orderly end.
  const onFatal = () => Deno.exit(70);
  const chainfire = stack.use(
    await createChainfire({ ...config, version }, { ...boot, authorizer, transport, disk: systemDisk, onFatal }),
  );
  const deps = { ...boot, authenticator, authorizer };
  if (config.peer) {
    const services = [chainfire.peerService];
    const limits = { messageBytesMax: peerMessageBytesMax };
    stack.use(await startRpcServer({ name, version, limits, ...config.peer }, { ...deps, services }));
  }
  const { services, http } = chainfire;
  stack.use(await startRpcServer({ name, version, ...config.rpc }, { ...deps, services, http }));
});
