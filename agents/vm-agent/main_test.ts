import assert from "node:assert/strict";
import {
  createAuthenticator,
  createAuthorizer,
  createWorkloadSigner,
  generateIdentity,
  loadTrust,
  standardGrants,
  svcId,
} from "@ultracloud/authz";
import { parseManifest, type Placement, seededRng, systemClock } from "@ultracloud/base";
import { freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import {
  ImageFormat,
  ImageService,
  type Node,
  NodeService,
  type VmObservation,
  VmState,
} from "@ultracloud/proto/plasmavmc/v1";
import { Protocol } from "@ultracloud/proto/prismnet/v1";
import { VmAgentService, type VmSpecSchema } from "@ultracloud/proto/vmagent/v1";
import { bind, type BoundService, createRpcClient, startRpcServer, toFault } from "@ultracloud/rpc";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { stringify } from "smol-toml";
import { type TinyImage, tinyImage, until } from "./testdata/tiny_image.ts";

const image = await tinyImage();
const clusterId = "test";
const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const vmId = "vm_01J00000000000000000000000";

/** The part of plasmavmc a worker speaks to. */
interface Controller {
  readonly services: readonly BoundService[];
  node: Node | undefined;
  observed: readonly VmObservation[];
  /** Set to have the worker register again. */
  forget: boolean;
  registrations: number;
}

function controller(tiny: TinyImage): Controller {
  const scope = () => "";
  const notAsked = (): never => {
    throw new Error("a worker does not ask for this");
  };
  // As plasmavmc names them: the worker calls with the grants it gets in a real cluster.
  const row = (resource: string, action: string) => ({ resource, action, scope });
  const self: Controller = { services: [], node: undefined, observed: [], forget: false, registrations: 0 };
  const nodes = bind(NodeService, {
    registerNode(request) {
      self.node = request.node;
      self.registrations++;
      self.forget = false;
      return { leaseTtlMs: 600n };
    },
    heartbeat(request) {
      self.observed = request.vms;
      return { leaseTtlMs: 600n, reregister: self.forget };
    },
    getNode: notAsked,
    listNodes: notAsked,
    setNodeCordoned: notAsked,
  }, {
    registerNode: row("node", "register"),
    heartbeat: row("node", "heartbeat"),
    getNode: row("node", "get"),
    listNodes: row("node", "list"),
    setNodeCordoned: row("node", "cordon"),
  });
  const images = bind(ImageService, {
    importImage: notAsked,
    getImage: notAsked,
    listImages: notAsked,
    deleteImage: notAsked,
    async *readImage(request) {
      assert.equal(request.sha256, tiny.ref.sha256);
      for (let at = Number(request.offset); at < tiny.bytes.length; at += 1 << 20) {
        yield await Promise.resolve({ chunk: tiny.bytes.subarray(at, at + (1 << 20)) });
      }
    },
  }, {
    importImage: row("image", "create"),
    getImage: row("image", "get"),
    listImages: row("image", "list"),
    deleteImage: row("image", "delete"),
    readImage: row("image", "read"),
  });
  return Object.assign(self, { services: [nodes, images] });
}

function specOf(tiny: TinyImage, hostPort: number): MessageInitShape<typeof VmSpecSchema> {
  const forward = { protocol: Protocol.TCP, hostIp: "127.0.0.1", hostPort, guestPort: 80 };
  return {
    vmId,
    project: "acme/prod",
    name: "web",
    vcpus: 1,
    memoryBytes: 128n << 20n,
    diskBytes: 64n << 20n,
    imageSha256: tiny.ref.sha256,
    imageFormat: ImageFormat.KERNEL_BUNDLE,
    imageBytes: BigInt(tiny.bytes.length),
    nics: [{
      portId: "port_1",
      macAddress: "52:54:00:0a:0b:0c",
      ipAddress: "10.9.0.15",
      binding: {
        engine: {
          case: "user",
          value: {
            cidr: "10.9.0.0/24",
            gatewayIp: "10.9.0.1",
            dnsIp: "10.9.0.2",
            forwards: [forward],
            restrict: false,
          },
        },
      },
    }],
    generation: 1n,
  };
}

Deno.test({
  name: "a worker under its own permissions registers, runs a VM, is killed, adopts it and deletes it",
  ignore: image === undefined,
  async fn() {
    const dir = await Deno.makeTempDir({ prefix: "uva" });
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(() => Deno.remove(dir, { recursive: true }));
    const trustFile = `${dir}/trust.json`;
    const principals: Record<string, unknown> = {};
    for (const name of ["plasmavmc", "vm-agent"]) {
      const { publicKey, privateKey } = await generateIdentity();
      await Deno.mkdir(`${dir}/${name}/etc`, { recursive: true });
      await Deno.writeTextFile(`${dir}/${name}/etc/identity.key`, JSON.stringify(privateKey));
      principals[svcId(clusterId, name)] = {
        publicKey,
        grants: name === "vm-agent" ? standardGrants(name) : [{ permission: "vmagent.vm.*", scope: "" }],
      };
    }
    await Deno.writeTextFile(trustFile, JSON.stringify({ clusterId, principals }));

    const trust = await loadTrust(trustFile, { clock: systemClock });
    const plane = controller(image!);
    const server = cleanup.use(
      await startRpcServer({ name: "plasmavmc", version: "0", listen: "127.0.0.1:0" }, {
        services: plane.services,
        authenticator: createAuthenticator({ audience: svcId(clusterId, "plasmavmc") }, { trust, clock: systemClock }),
        authorizer: createAuthorizer({ trust }),
        registry: new Registry(),
        health: new Health(),
        log: noopLogger,
        clock: systemClock,
        rng: seededRng(1),
      }),
    );

    const listen = `127.0.0.1:${freePort()}`;
    const home = `${dir}/vm-agent`;
    const placement: Placement = {
      configDir: `${home}/etc`,
      stateDir: `${home}/state`,
      runDir: `${home}/run`,
      trustFile,
      listen: { rpc: listen },
      callees: { "plasmavmc.rpc": [new URL(server.url).host] },
    };
    await Deno.mkdir(placement.stateDir);
    await Deno.mkdir(placement.runDir);
    await Deno.writeTextFile(
      `${home}/etc/config.toml`,
      stringify({
        clusterId,
        nodeName: "node04",
        accelerator: "tcg",
        rpc: { listen },
        stateDir: placement.stateDir,
        runDir: placement.runDir,
        identityKeyFile: `${home}/etc/identity.key`,
        trustFile,
        peers: { plasmavmc: [server.url] },
      }),
    );
    const manifestFile = `${root}/agents/vm-agent/component.json`;
    const manifest = parseManifest(await Deno.readTextFile(manifestFile), manifestFile);
    const start = async () => {
      const process = spawnComponent({
        manifest,
        placement,
        program: { kind: "source", root, entry: `${root}/agents/vm-agent/main.ts` },
        logFile: `${dir}/agent.log`,
      });
      cleanup.defer(() => process.kill());
      await waitReady(`http://${listen}`, { name: "vm-agent", timeoutMs: 60_000, process });
      return process;
    };
    const signer = await createWorkloadSigner(
      { clusterId, name: "plasmavmc", keyFile: `${dir}/plasmavmc/etc/identity.key` },
      { clock: systemClock },
    );
    const worker = createRpcClient(VmAgentService, {
      endpoints: [`http://${listen}`],
      authorization: signer.authorization("vm-agent"),
      timeoutMs: 120_000,
    });
    const port = freePort();
    const spec = specOf(image!, port);
    const boots = () =>
      until("the guest's page", 60_000, async () => {
        const answer = await fetch(`http://127.0.0.1:${port}/status.json`, { signal: AbortSignal.timeout(2_000) });
        return (await answer.json() as { boots: number }).boots;
      });

    const first = await start();
    assert.equal(plane.node?.name, "node04");
    assert.equal(plane.node?.accelerator, "tcg");
    assert.equal(plane.node?.agentUrl, `http://${listen}`);
    const stranger = createRpcClient(VmAgentService, { endpoints: [`http://${listen}`] });
    await assert.rejects(stranger.listVms({}), (error) => toFault(error).kind === "unauthenticated");

    const instance = await worker.ensureVm({ spec });
    assert.equal(instance.state, VmState.RUNNING);
    cleanup.defer(() => {
      try {
        Deno.kill(instance.pid, "SIGKILL");
      } catch {
        // It ended as the test wanted.
      }
    });
    assert.equal(await boots(), 1);
    await until("the observation", 5_000, () => Promise.resolve(plane.observed[0]?.state === VmState.RUNNING));
    plane.forget = true;
    await until("the second registration", 5_000, () => Promise.resolve(plane.registrations === 2));

    await first.kill();
    assert.equal(await boots(), 1, "the guest runs without its agent");
    const second = await start();
    const adopted = await worker.getVm({ vmId });
    assert.deepEqual([adopted.state, adopted.pid], [VmState.RUNNING, instance.pid]);
    assert.equal(await boots(), 1, "the guest was not touched");
    const printed = await worker.readConsole({ vmId, offset: 0n, limit: 65_536 });
    assert.match(new TextDecoder().decode(printed.data), /ULTRACLOUD_GUEST_READY hostname=web/);

    const stopped = await worker.stopVm({ vmId, graceMs: 30_000 });
    assert.equal(stopped.state, VmState.STOPPED);
    await worker.deleteVm({ vmId });
    await assert.rejects(worker.getVm({ vmId }), (error) => toFault(error).code === "vm_not_found");
    assert.deepEqual([...Deno.readDirSync(placement.runDir)], []);
    assert.deepEqual([...Deno.readDirSync(`${placement.stateDir}/vms`)], []);
    await second.stop();
    assert.equal((await second.ended).code, 0);
  },
});
