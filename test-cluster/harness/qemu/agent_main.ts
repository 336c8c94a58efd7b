/**
 * Runs on every node of the substrate `qemu`, as root: starts components, signals them, runs programs and reads files
 * for the harness. It serves whoever holds the token of its seed, on the network of the cluster only.
 */
import { Fault } from "@ultracloud/base";
import { timingSafeEqual } from "node:crypto";
import { ComponentTable } from "../component_table.ts";
import { runTool } from "../tools.ts";
import {
  type AgentFile,
  agentPort,
  type AttachRequest,
  type ExecRequest,
  type Seed,
  type SignalRequest,
  type StartRequest,
} from "./agent_api.ts";
import { nodePaths } from "./guest_tree.ts";

const seed = JSON.parse(Deno.readTextFileSync(Deno.args[0]!)) as Seed;
const table = new ComponentTable(nodePaths.pids);
const encoder = new TextEncoder();

function isToken(given: string): boolean {
  const [a, b] = [encoder.encode(given), encoder.encode(seed.token)];
  return a.length === b.length && timingSafeEqual(a, b);
}

async function writeFiles(files: readonly AgentFile[]): Promise<void> {
  for (const { path, base64, executable } of files) {
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true, mode: 0o700 });
    await Deno.writeFile(`${path}.new`, Uint8Array.fromBase64(base64), { mode: executable ? 0o700 : 0o600 });
    await Deno.rename(`${path}.new`, path);
  }
}

/** A program on somebody's terminal. */
function attach(request: Request): Response {
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.binaryType = "arraybuffer";
  let writer: WritableStreamDefaultWriter<Uint8Array> | undefined;
  let child: Deno.ChildProcess | undefined;
  const begin = (text: string) => {
    const { token, argv, terminal } = JSON.parse(text) as AttachRequest;
    if (!isToken(token)) return socket.close(1008, "wrong token");
    const quoted = argv.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
    const [program, ...args] = terminal ? ["script", "-q", "-c", quoted, "/dev/null"] : argv as [string, ...string[]];
    const options = { args, stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    child = new Deno.Command(program!, options).spawn();
    writer = child.stdin.getWriter();
    const pump = async (stream: ReadableStream<Uint8Array>) => {
      for await (const chunk of stream) if (socket.readyState === WebSocket.OPEN) socket.send(chunk.slice());
    };
    Promise.all([child.status, pump(child.stdout), pump(child.stderr)]).then(([{ code }]) => {
      if (socket.readyState !== WebSocket.OPEN) return;
      socket.send(String(code));
      socket.close();
    });
  };
  socket.onmessage = ({ data }) => {
    if (writer === undefined) {
      try {
        begin(String(data));
      } catch (error) {
        socket.close(1011, String(error).slice(0, 100));
      }
    } // A text that follows says that nothing more comes.
    else if (typeof data === "string") writer.close().catch(() => {});
    else writer.write(new Uint8Array(data)).catch(() => {});
  };
  socket.onclose = () => {
    try {
      child?.kill("SIGKILL");
    } catch {
      // It has ended.
    }
  };
  return response;
}

async function serve(request: Request): Promise<Response> {
  const url = new URL(request.url);
  if (url.pathname === "/attach") return attach(request);
  if (!isToken(request.headers.get("authorization")?.replace(/^Bearer /, "") ?? "")) {
    return new Response("wrong token", { status: 401 });
  }
  switch (`${request.method} ${url.pathname}`) {
    case "GET /healthz":
      return new Response("ok");
    case "GET /processes":
      return Response.json(table.list());
    case "POST /exec": {
      const { argv, timeoutMs } = await request.json() as ExecRequest;
      return Response.json(await runTool(argv, { timeoutMs }));
    }
    case "POST /start": {
      const { spec, files } = await request.json() as StartRequest;
      await writeFiles(files);
      await table.start(spec);
      return new Response();
    }
    case "POST /files":
      await writeFiles(await request.json() as AgentFile[]);
      return new Response();
    case "POST /signal": {
      const { component, signal } = await request.json() as SignalRequest;
      return Response.json(table.signal(component, signal));
    }
    case "GET /file":
      try {
        return new Response(await Deno.readFile(url.searchParams.get("path") ?? ""));
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return new Response(null, { status: 404 });
        throw error;
      }
  }
  return new Response(null, { status: 405 });
}

Deno.serve({
  hostname: seed.address.split("/")[0]!,
  port: agentPort,
  onListen: () => console.log(`ULTRACLOUD_NODE_READY ${seed.hostname}`),
  onError: (error) => {
    const { code, message } = error instanceof Fault ? error : { code: "internal", message: String(error) };
    return Response.json({ code, message }, { status: 500 });
  },
}, serve);
