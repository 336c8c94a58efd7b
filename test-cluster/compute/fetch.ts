import { toHex } from "@ultracloud/base";
import { type ComponentProcess, freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { OperationState } from "@ultracloud/proto/common/v1";
import { ImageFormat, ImageIntakeService } from "@ultracloud/proto/plasmavmc/v1";
import { parse, stringify } from "smol-toml";
import { ComputeCloud, project, until } from "./cloud.ts";
import type { Proof } from "./proof.ts";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
/** Stands for a server of the internet: the one address that the fetcher is let to, beside the public ones. */
const outsideIp = "127.0.0.2";
const silenceMs = 2_000;
const imageBytes = 4 * 1024 * 1024;
/** Enough for the tiny guest's too. */
const imageBytesMax = 20 * 1024 * 1024;

/** Images from URLs by a fetcher under its own permissions: what is refused, what breaks off, and who is killed meanwhile. */
export async function fetchImages(proof: Proof): Promise<void> {
  const content = new Uint8Array(imageBytes);
  for (let at = 0; at < imageBytes; at += 65_536) crypto.getRandomValues(content.subarray(at, at + 65_536));
  const sha256 = toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", content)));
  const insidePort = freePort();
  const insideCalls: string[] = [];
  await using _inside = Deno.serve({ hostname: "127.0.0.1", port: insidePort, onListen: () => {} }, (request) => {
    insideCalls.push(request.url);
    return new Response("what only the inside may know");
  });
  await using server = new ImageServer(content, `http://127.0.0.1:${insidePort}/latest/meta-data`);
  await using cloud = await ComputeCloud.open({
    workers: [],
    also: ["fetcher"],
    planeConfig: { imageBytesMax },
  });
  await using fetcher = await Fetcher.start(cloud, server.port);
  const intake = cloud.client(ImageIntakeService);
  const begin = (name: string, path: string, digest = sha256) =>
    intake.fetchImage({ project, name, format: ImageFormat.RAW, url: `${server.url}${path}`, sha256: digest });
  const names = async () => (await cloud.images.listImages({ project })).images.map((image) => image.meta!.name).sort();
  /** Of what uploads and images are made on disk. */
  const files = (dir: string) => [...Deno.readDirSync(`${cloud.imagesDir}/${dir}`)].length;
  const before = { names: await names(), content: files("content") };
  const untouched = async (what: string) => {
    await until(
      `${what} leaves nothing`,
      30_000,
      async () =>
        files("incoming") === 0 && files("content") === before.content && `${await names()}` === `${before.names}`,
    );
  };

  const good = await cloud.done(begin("good", "/image"));
  proof.check(good.state === OperationState.DONE, `${imageBytes} bytes are fetched, their digest as it was said`);
  await cloud.done(begin("moved", "/moved"));
  proof.seen("a redirect to another public address is followed");
  for (const image of ["good", "moved"]) await cloud.images.deleteImage({ project, image });
  await untouched("deleting both");

  const refused: readonly (readonly [string, string, string, string?])[] = [
    ["a redirect to a private address", "/inside", "address_refused"],
    ["a redirect that never ends", "/round", "fetch_refused"],
    ["another digest", "/image", "image_digest_mismatch", "0".repeat(64)],
    ["more than is allowed, as the server says", "/large", "content_too_large"],
    ["more than is allowed, though the server does not say", "/endless", "content_too_large"],
    ["content that ends before its length", "/cut", "content_cut_off"],
    ["a server that falls silent", "/stall", "fetch_slow"],
    ["a page that is not there", "/absent", "fetch_refused"],
  ];
  for (const [what, path, code, digest] of refused) {
    const start = performance.now();
    const { state, error } = await cloud.over(await begin("bad", path, digest));
    if (state !== OperationState.FAILED || error?.code !== code) {
      throw new Error(
        `${what}: ended ${OperationState[state]} with ${error?.code} instead of ${code}: ${error?.message}`,
      );
    }
    await untouched(what);
    proof.seen(`${what}: refused with ${code} after ${Math.round(performance.now() - start)} ms, nothing is left`);
  }
  proof.check(insideCalls.length === 0, "nobody inside was asked");

  for (const victim of ["the fetcher", "plasmavmc"] as const) {
    server.hold();
    const operation = await begin("killed", "/held");
    await until("half of it is there", 30_000, () => server.isHolding && files("incoming") === 1);
    if (victim === "the fetcher") await fetcher.kill();
    else await cloud.killPlane();
    server.release();
    if (victim === "the fetcher") await fetcher.restart();
    else cloud.startPlane();
    const { state, error } = await cloud.over(operation);
    if (state === OperationState.DONE) {
      await until("no upload is left", 30_000, () => files("incoming") === 0);
      const image = await cloud.images.getImage({ project, image: "killed" });
      if (image.sha256 !== sha256) throw new Error(`The image is ${image.sha256} instead of ${sha256}`);
      await cloud.images.deleteImage({ project, image: "killed" });
    }
    await untouched(`${victim} killed`);
    proof.seen(
      `${victim} killed in the middle: ${OperationState[state]}${error ? ` (${error.code})` : ""}, nothing is left`,
    );
  }

  server.hold();
  const operation = await begin("cancelled", "/held");
  await until("half of it is there", 30_000, () => server.isHolding && files("incoming") === 1);
  await cloud.operations.cancelOperation({ project, id: operation.id });
  const { state } = await cloud.over(operation);
  server.release();
  await untouched("a cancel");
  proof.check(state === OperationState.CANCELLED, "cancelled in the middle, nothing is left");
}

/** A server of images that does what servers do. */
class ImageServer implements AsyncDisposable {
  readonly port: number;
  readonly #server: Deno.HttpServer;
  #held = Promise.withResolvers<void>();
  isHolding = false;

  constructor(content: Uint8Array<ArrayBuffer>, insideUrl: string) {
    this.#server = Deno.serve({ hostname: outsideIp, port: 0, onListen: () => {} }, ({ url }) => {
      const to = (location: string) => new Response(null, { status: 302, headers: { location } });
      const half = content.subarray(0, content.length / 2);
      switch (new URL(url).pathname) {
        case "/image":
          return new Response(content);
        case "/moved":
          return to(`${this.url}/image`);
        case "/inside":
          return to(insideUrl);
        case "/round":
          return to(`${this.url}/round`);
        case "/large":
          return new Response(new Uint8Array(imageBytesMax + 1));
        case "/endless":
          return new Response(new ReadableStream({ pull: (controller) => controller.enqueue(half) }));
        case "/stall":
          return new Response(new ReadableStream({ start: (controller) => controller.enqueue(half) }));
        case "/cut":
          return new Response(
            new ReadableStream({
              start(controller) {
                controller.enqueue(half);
                controller.error(new Error("the line broke"));
              },
            }),
          );
        case "/held":
          return new Response(this.#inHalves(content, half));
        default:
          return new Response("absent", { status: 404 });
      }
    });
    this.port = (this.#server.addr as Deno.NetAddr).port;
  }

  get url(): string {
    return `http://${outsideIp}:${this.port}`;
  }

  /** From now on `/held` waits in its middle until it is released. */
  hold(): void {
    this.isHolding = false;
    this.#held = Promise.withResolvers();
  }

  release(): void {
    this.#held.resolve();
  }

  #inHalves(content: Uint8Array<ArrayBuffer>, half: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array<ArrayBuffer>> {
    const held = this.#held.promise;
    let sent = 0;
    return new ReadableStream({
      pull: async (controller) => {
        if (sent++ === 0) return controller.enqueue(half);
        this.isHolding = true;
        await held;
        controller.enqueue(content.subarray(half.length));
        controller.close();
      },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    await this.#server.shutdown();
  }
}

/** The fetcher under its own permissions and that for one address more. */
class Fetcher implements AsyncDisposable {
  readonly #cloud: ComputeCloud;
  readonly #port: number;
  #process: ComponentProcess | undefined;

  private constructor(cloud: ComputeCloud, port: number) {
    this.#cloud = cloud;
    this.#port = port;
  }

  static async start(cloud: ComputeCloud, port: number): Promise<Fetcher> {
    const file = `${cloud.stack.placement("fetcher").configDir}/config.toml`;
    const config = parse(await Deno.readTextFile(file));
    const text = stringify({ ...config, privateRanges: [`${outsideIp}/32`], fetchSilenceMsMax: silenceMs });
    await Deno.writeTextFile(file, text);
    const fetcher = new Fetcher(cloud, port);
    await fetcher.restart();
    return fetcher;
  }

  async restart(): Promise<void> {
    const { stack } = this.#cloud;
    const placement = stack.placement("fetcher");
    const { manifest, dir } = stack.member("fetcher");
    const callees = {
      ...placement.callees,
      "flaredb.rpc": [...placement.callees["flaredb.rpc"]!, `${outsideIp}:${this.#port}`],
    };
    this.#process = spawnComponent({
      manifest,
      placement: { ...placement, callees },
      program: { kind: "source", root, entry: `${dir}/${manifest.entry}` },
      logFile: stack.logFile("fetcher"),
    });
    await waitReady(stack.endpoint("fetcher"), { name: "fetcher", timeoutMs: 60_000, process: this.#process });
  }

  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process?.stop();
  }
}
