import { setupAuth } from "@ultracloud/authz";
import { PeerTransport } from "@ultracloud/replica";
import { runComponent, startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import { configSchema, createFlaredb } from "./mod.ts";
import { requestBytesMax } from "./domain/bounds.ts";

const name = "flaredb";
const version = "0.1.0";

await runComponent({ name, version, schema: configSchema }, async (boot) => {
  const { config, stack, log, clock, rng } = boot;
  const { signer, authenticator, authorizer } = await setupAuth(boot, { name });
  const peers = Object.fromEntries(
    config.members.filter((member) => member.id !== config.memberId).map((member) => [member.id, member.peerUrl]),
  );
  const transport = config.members.length < 2 ? undefined : stack.use(
    new PeerTransport({ clusterId: config.clusterId, peers, tls: config.peer?.tls }, {
      clock,
      rng,
      log,
      authorization: signer.authorization(name),
    }),
  );
  // Nothing more may be written once the disk has lied: not even an orderly end.
  const onFatal = () => Deno.exit(70);
  const deps = { ...boot, authenticator, authorizer, transport, disk: systemDisk, onFatal };
  const flaredb = stack.use(await createFlaredb({ ...config, version }, deps));
  const limits = { messageBytesMax: requestBytesMax };
  if (config.peer) {
    const services = [flaredb.peerService];
    stack.use(await startRpcServer({ name, version, limits, ...config.peer }, { ...deps, services }));
  }
  const { services, http } = flaredb;
  stack.use(
    await startRpcServer({ name, version, ...config.rpc, limits: { ...limits, ...config.rpc.limits } }, {
      ...deps,
      services,
      http,
    }),
  );
});
