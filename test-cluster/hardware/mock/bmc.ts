import { fault, toHex, utf8 } from "@ultracloud/base";
import { createHash, timingSafeEqual } from "node:crypto";
import type { Machine } from "./machine.ts";
import type { Quirks } from "./quirks.ts";

export interface MockBmcOptions {
  readonly quirks: Quirks;
  readonly username: string;
  readonly password: string;
  /** Serial of the machine, as its firmware would tell. */
  readonly serial: string;
  /** Where images are kept that the BMC fetched. */
  readonly dir: string;
  /** HTTPS with this certificate; plain HTTP without. */
  readonly tls?: { readonly certPem: string; readonly keyPem: string };
}

export interface MockBmc extends AsyncDisposable {
  readonly url: string;
  /** `METHOD path` of every call that was let in, with its status. */
  readonly calls: readonly string[];
  /** Bodies of changes, in order. */
  readonly bodies: readonly unknown[];
  /** Forgets all logins, as a restarted BMC does. */
  forgetSessions(): void;
}

type Json = Record<string, unknown>;
interface Drive {
  image: string | undefined;
  connected: boolean;
}

const imageBytesMax = 4 * 2 ** 30;
const system = "/redfish/v1/Systems/1";
const manager = "/redfish/v1/Managers/bmc";
const attributesPath = `${manager}/Attributes`;
const sessionsPath = "/redfish/v1/SessionService/Sessions";
const resetInfoPath = `${system}/ResetActionInfo`;

/** A Redfish service over a machine, with the habits of a make. */
export function startMockBmc(options: MockBmcOptions, machine: Machine): MockBmc {
  const bmc = new Bmc(options, machine);
  const { tls } = options;
  const server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    onListen: () => {},
    ...(tls === undefined ? {} : { cert: tls.certPem, key: tls.keyPem }),
  }, (request) => bmc.answer(request));
  const { port } = server.addr as Deno.NetAddr;
  return {
    url: `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`,
    calls: bmc.calls,
    bodies: bmc.bodies,
    forgetSessions: () => bmc.sessions.clear(),
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await bmc.settled();
    },
  };
}

class Bmc {
  readonly calls: string[] = [];
  readonly bodies: unknown[] = [];
  readonly sessions = new Map<string, string>();
  readonly #options: MockBmcOptions;
  readonly #quirks: Quirks;
  readonly #machine: Machine;
  readonly #drives = new Map<string, Drive>();
  readonly #tasks = new Map<string, { state: "Running" | "Completed" | "Exception"; message: string }>();
  readonly #log: Json[] = [];
  readonly #running = new Set<Promise<unknown>>();
  #boot: Json = {
    BootSourceOverrideEnabled: "Disabled",
    BootSourceOverrideTarget: "None",
    BootSourceOverrideMode: "UEFI",
  };
  #attributes: Json = { "ServerBoot.1.BootOnce": "Disabled", "ServerBoot.1.FirstBootDevice": "Normal" };
  #emptySuccesses: number;
  #ids = 0;

  constructor(options: MockBmcOptions, machine: Machine) {
    this.#options = options;
    this.#quirks = options.quirks;
    this.#machine = machine;
    this.#emptySuccesses = options.quirks.emptySuccesses;
    const owners = { system: [system], manager: [manager], both: [system, manager] }[options.quirks.mediaAt];
    for (const owner of owners) {
      // A drive for sticks comes first: a client that takes the first member is wrong.
      this.#drives.set(`${owner}/VirtualMedia/Floppy1`, { image: undefined, connected: false });
      this.#drives.set(`${owner}/VirtualMedia/CD1`, { image: undefined, connected: false });
    }
  }

  async settled(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  async answer(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname.replace(/(.)\/$/, "$1");
    const answer = await this.#route(request, path);
    this.calls.push(`${request.method} ${path} ${answer.status}`);
    return answer;
  }

  async #route(request: Request, path: string): Promise<Response> {
    // The service root is the one thing that strangers may read.
    if (path === "/redfish/v1" && request.method === "GET") return Response.json(this.#documents().get(path));
    if (path === sessionsPath && request.method === "POST") return await this.#login(request);
    if (!this.#mayEnter(request)) {
      return refusal(401, "While accessing the resource, the service received an authentication error");
    }
    const document = this.#documents().get(path);
    switch (request.method) {
      case "GET": {
        if (path.startsWith("/redfish/v1/TaskService/Tasks/")) return this.#task(path);
        if (document === undefined) return refusal(404, `The resource at ${path} was not found`);
        return Response.json(document, { headers: { etag: this.#etag(path, document) } });
      }
      case "POST":
        return await this.#act(path, await bodyOf(request));
      case "PATCH": {
        if (document === undefined) return refusal(404, `The resource at ${path} was not found`);
        const wrong = this.#versionMistake(request, path, document);
        return wrong ?? this.#change(path, await bodyOf(request));
      }
      case "DELETE": {
        const token = request.headers.get("x-auth-token") ?? "";
        if (this.sessions.get(token) !== path) return refusal(404, "No such session");
        this.sessions.delete(token);
        return new Response(null, { status: 204 });
      }
    }
    return refusal(405, "The method is not allowed");
  }

  #mayEnter(request: Request): boolean {
    const token = request.headers.get("x-auth-token");
    if (token !== null) return this.sessions.has(token);
    const [scheme, value] = (request.headers.get("authorization") ?? "").split(" ");
    if (scheme !== "Basic" || value === undefined) return false;
    try {
      return this.#knows(new TextDecoder().decode(Uint8Array.from(atob(value), (c) => c.charCodeAt(0))));
    } catch {
      return false;
    }
  }

  #knows(nameAndPassword: string): boolean {
    const digest = (text: string) => createHash("sha256").update(text).digest();
    return timingSafeEqual(digest(nameAndPassword), digest(`${this.#options.username}:${this.#options.password}`));
  }

  async #login(request: Request): Promise<Response> {
    if (!this.#quirks.sessions) return refusal(404, "There is no session service");
    const body = await bodyOf(request);
    if (!this.#knows(`${body["UserName"]}:${body["Password"]}`)) return refusal(401, "The login failed");
    const token = toHex(crypto.getRandomValues(new Uint8Array(16)));
    const path = `${sessionsPath}/${++this.#ids}`;
    this.sessions.set(token, path);
    return Response.json({ "@odata.id": path }, { status: 201, headers: { "x-auth-token": token, location: path } });
  }

  #etag(path: string, document: Json): string {
    const strong = `"${createHash("sha256").update(path + JSON.stringify(document)).digest("hex").slice(0, 16)}"`;
    return this.#quirks.weakEtags ? `W/${strong}` : strong;
  }

  #versionMistake(request: Request, path: string, document: Json): Response | undefined {
    if (!this.#quirks.wantsEtag) return undefined;
    const given = request.headers.get("if-match");
    if (given === null) return refusal(428, "A precondition is required to change this resource");
    if (given === this.#etag(path, document).replace(/^W\//, "")) return undefined;
    return refusal(412, "The ETag supplied did not match the ETag of the resource");
  }

  #change(path: string, body: Json): Response {
    this.bodies.push(body);
    if (path === system && typeof body["Boot"] === "object") {
      const boot = body["Boot"] as Json;
      const target = boot["BootSourceOverrideTarget"];
      if (typeof target === "string" && !this.#quirks.bootTargets.includes(target)) {
        return refusal(400, `The value ${target} for BootSourceOverrideTarget is not in the list of acceptable values`);
      }
      this.#boot = { ...this.#boot, ...boot };
      return new Response(null, { status: 204 });
    }
    if (path === attributesPath) {
      this.#attributes = { ...this.#attributes, ...body["Attributes"] as Json };
      return new Response(null, { status: 204 });
    }
    return refusal(400, "None of the properties can be changed");
  }

  async #act(path: string, body: Json): Promise<Response> {
    this.bodies.push(body);
    if (path === `${system}/Actions/ComputerSystem.Reset`) return await this.#reset(String(body["ResetType"]));
    const match = /^(.*)\/Actions\/VirtualMedia\.(Insert|Eject)Media$/.exec(path);
    const drive = this.#drives.get(match?.[1] ?? "");
    if (match === null || drive === undefined) return refusal(404, `The action ${path} was not found`);
    if (match[2] === "Eject") {
      drive.connected = false;
      if (!this.#quirks.keepsImage) drive.image = undefined;
      await this.#machine.changeMedium(undefined);
      this.#note("virtual media ejected");
      return new Response(null, { status: 204 });
    }
    return await this.#insert(drive, body);
  }

  async #insert(drive: Drive, body: Json): Promise<Response> {
    const image = body["Image"];
    if (typeof image !== "string") return refusal(400, "The parameter Image is missing");
    const [extra] = Object.keys(body).filter((name) => name !== "Image");
    if (this.#quirks.imageOnly && extra !== undefined) return refusal(400, `The parameter ${extra} is not supported`);
    if (drive.connected) return refusal(400, "The virtual media is already in use");
    const succeed = () => new Response(null, { status: 204 });
    if (this.#emptySuccesses > 0) {
      this.#emptySuccesses--;
      return succeed();
    }
    const work = async () => {
      const file = await this.#fetch(image);
      await this.#machine.changeMedium(file);
      Object.assign(drive, { image, connected: true });
      this.#note("virtual media connected");
    };
    if (!this.#quirks.insertIsTask) {
      try {
        await work();
        return succeed();
      } catch {
        return refusal(400, "The image cannot be read from its URL");
      }
    }
    const id = String(++this.#ids);
    const task = { state: "Running" as "Running" | "Completed" | "Exception", message: "" };
    this.#tasks.set(id, task);
    const run = work().then(() => void (task.state = "Completed"), () => {
      task.state = "Exception";
      task.message = "The image cannot be read from its URL";
    });
    this.#running.add(run);
    run.finally(() => this.#running.delete(run));
    const location = `/redfish/v1/TaskService/Tasks/${id}`;
    return Response.json({ "@odata.id": location, TaskState: "New" }, { status: 202, headers: { location } });
  }

  #task(path: string): Response {
    const task = this.#tasks.get(path.split("/").at(-1)!);
    if (task === undefined) return refusal(404, "No such task");
    const messages = task.message === "" ? [] : [{ Message: task.message }];
    return Response.json({ "@odata.id": path, TaskState: task.state, TaskStatus: "OK", Messages: messages });
  }

  /** A BMC has no browser's patience: it fetches the whole image before it says that it is attached. */
  async #fetch(image: string): Promise<string> {
    const answer = await fetch(image);
    if (!answer.ok || answer.body === null) {
      await answer.body?.cancel();
      throw fault("unavailable", "image", `Cannot fetch the image: ${answer.status}`);
    }
    const file = `${this.#options.dir}/medium-${++this.#ids}.iso`;
    using out = await Deno.open(file, { create: true, write: true, truncate: true, mode: 0o600 });
    let size = 0;
    for await (const chunk of answer.body) {
      size += chunk.length;
      if (size > imageBytesMax) throw fault("resource_exhausted", "image", "Cannot keep an image of that size");
      for (let at = 0; at < chunk.length;) at += await out.write(chunk.subarray(at));
    }
    return file;
  }

  async #reset(type: string): Promise<Response> {
    if (!this.#quirks.resetTypes.includes(type)) {
      return refusal(400, `The value ${type} for ResetType is not acceptable`);
    }
    if (type === "ForceOff" || type === "GracefulShutdown") await this.#machine.off();
    else if (type === "On") {
      if (this.#machine.powered) return refusal(409, "The system is on");
      await this.#machine.on(this.#takeBootOnce());
    } else if (this.#machine.powered) await this.#machine.reset(this.#takeBootOnce());
    else return refusal(409, "The system is off");
    this.#note(`reset ${type}`);
    return new Response(null, { status: 204 });
  }

  /** Where the coming boot comes from; an override for once is used up by it. */
  #takeBootOnce(): boolean {
    const inserted = [...this.#drives.values()].some(({ connected }) => connected);
    const vendor = this.#attributes["ServerBoot.1.BootOnce"] === "Enabled" &&
      this.#attributes["ServerBoot.1.FirstBootDevice"] === "VCD-DVD";
    const standard = this.#boot["BootSourceOverrideEnabled"] === "Once" &&
      ["Cd", "UsbCd"].includes(String(this.#boot["BootSourceOverrideTarget"]));
    this.#attributes["ServerBoot.1.BootOnce"] = "Disabled";
    this.#boot = { ...this.#boot, BootSourceOverrideEnabled: "Disabled", BootSourceOverrideTarget: "None" };
    return inserted && (this.#quirks.cdIsPhysical ? vendor : standard);
  }

  #note(message: string): void {
    const id = String(this.#log.length + 1);
    this.#log.push({ Id: id, Created: new Date().toISOString(), Severity: "OK", MessageId: "", Message: message });
  }

  #documents(): ReadonlyMap<string, Json> {
    const q = this.#quirks;
    const documents = new Map<string, Json>();
    const add = (path: string, document: Json) => documents.set(path, { "@odata.id": path, ...document });
    const ref = (path: string) => ({ "@odata.id": path });
    const collection = (path: string, members: readonly string[]) => add(path, { Members: members.map(ref) });
    add("/redfish/v1", {
      RedfishVersion: "1.15.0",
      Systems: ref("/redfish/v1/Systems"),
      Managers: ref("/redfish/v1/Managers"),
      ...(q.sessions ? { Links: { Sessions: ref(sessionsPath) } } : { Links: {} }),
    });
    collection("/redfish/v1/Systems", [system]);
    collection("/redfish/v1/Managers", [manager]);
    const media = (owner: string) => {
      const own = [...this.#drives.keys()].filter((path) => path.startsWith(owner));
      if (own.length > 0) collection(`${owner}/VirtualMedia`, own);
      return own.length > 0 ? { VirtualMedia: ref(`${owner}/VirtualMedia`) } : {};
    };
    add(system, {
      Manufacturer: q.manufacturer,
      Model: q.model,
      SerialNumber: this.#options.serial,
      PowerState: this.#machine.powered ? "On" : "Off",
      Boot: { ...this.#boot, "BootSourceOverrideTarget@Redfish.AllowableValues": q.bootTargets },
      Links: { ManagedBy: [ref(manager)] },
      Actions: {
        "#ComputerSystem.Reset": {
          target: `${system}/Actions/ComputerSystem.Reset`,
          ...(q.resetInfo
            ? { "@Redfish.ActionInfo": resetInfoPath }
            : { "ResetType@Redfish.AllowableValues": q.resetTypes }),
        },
      },
      ...media(system),
    });
    if (q.resetInfo) {
      add(resetInfoPath, { Parameters: [{ Name: "ResetType", Required: true, AllowableValues: q.resetTypes }] });
    }
    add(manager, {
      ManagerType: "BMC",
      LogServices: ref(`${manager}/LogServices`),
      ...(q.cdIsPhysical ? { Attributes: ref(attributesPath) } : {}),
      ...media(manager),
    });
    if (q.cdIsPhysical) add(attributesPath, { Attributes: this.#attributes });
    collection(`${manager}/LogServices`, [`${manager}/LogServices/SEL`]);
    add(`${manager}/LogServices/SEL`, { Entries: ref(`${manager}/LogServices/SEL/Entries`) });
    add(`${manager}/LogServices/SEL/Entries`, { Members: this.#log });
    for (const [path, drive] of this.#drives) add(path, this.#drive(path, drive));
    return documents;
  }

  #drive(path: string, { image, connected }: Drive): Json {
    const cd = path.endsWith("/CD1");
    return {
      MediaTypes: cd ? ["CD", "DVD"] : ["Floppy", "USBStick"],
      Image: image ?? null,
      ConnectedVia: connected ? "URI" : "NotConnected",
      ...(this.#quirks.keepsImage ? {} : { Inserted: connected }),
      Actions: {
        "#VirtualMedia.InsertMedia": {
          target: `${path}/Actions/VirtualMedia.InsertMedia`,
          "TransferProtocolType@Redfish.AllowableValues": ["HTTP", "HTTPS", "NFS"],
          "TransferMethod@Redfish.AllowableValues": ["Stream"],
        },
        "#VirtualMedia.EjectMedia": { target: `${path}/Actions/VirtualMedia.EjectMedia` },
      },
    };
  }
}

const bodyBytesMax = 64 * 1024;

async function bodyOf(request: Request): Promise<Json> {
  const text = (await request.text()).slice(0, bodyBytesMax);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && utf8.encode(text).length <= bodyBytesMax) return value as Json;
  } catch {
    // An empty body is an empty object.
  }
  return {};
}

function refusal(status: number, message: string): Response {
  return Response.json({
    error: { code: "Base.1.8.GeneralError", message, "@Message.ExtendedInfo": [{ Message: message }] },
  }, { status });
}
