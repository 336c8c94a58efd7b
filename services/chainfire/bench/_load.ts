import { fault } from "@ultracloud/base";

/** One side of a comparison: how a request of it looks to the load generator. */
export interface Target {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Load {
  readonly path: string;
  /** Lua expression of the body; `key` is a random number of [0, keys). */
  readonly body: string;
  readonly contentType: string;
  readonly connections: number;
  readonly seconds: number;
}

export interface Measured {
  readonly perSecond: number;
  readonly requests: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Keys of every load, written in turn by chance. */
export const keys = 10_000;

const unitMs: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1_000 };

/** Drives a server with wrk for a while. Fails when an answer is not a success. */
export async function drive(target: Target, load: Load): Promise<Measured> {
  const script = await Deno.makeTempFile({ suffix: ".lua" });
  try {
    const headers = Object.entries({ "content-type": load.contentType, ...target.headers })
      .map(([name, value]) => `["${name}"]="${value}"`);
    await Deno.writeTextFile(
      script,
      `local headers = { ${headers.join(", ")} }
local requests = {}
-- Made beforehand: what the client spends on a request is not there for the server.
init = function()
  math.randomseed(7)
  for key = 0, ${keys - 1} do requests[key] = wrk.format("POST", "${load.path}", headers, ${load.body}) end
end
request = function() return requests[math.random(0, ${keys - 1})] end`,
    );
    const args = ["-t1", `-c${load.connections}`, `-d${load.seconds}s`, "--latency", "-s", script, target.url];
    const { stdout, stderr, success } = await new Deno.Command("wrk", { args }).output();
    const text = new TextDecoder().decode(stdout);
    const rate = /Requests\/sec:\s+([\d.]+)/.exec(text);
    const requests = /(\d+) requests in/.exec(text);
    if (!success || !rate || !requests || /Non-2xx|Socket errors/.test(text)) {
      throw fault("internal", "bench_failed", `Cannot use what wrk says: ${text}${new TextDecoder().decode(stderr)}`);
    }
    const at = (percent: string) => {
      const found = new RegExp(`${percent}%\\s+([\\d.]+)(us|ms|s)`).exec(text);
      return found ? Number(found[1]) * unitMs[found[2]!]! : NaN;
    };
    return { perSecond: Number(rate[1]), requests: Number(requests[1]), p50Ms: at("50"), p99Ms: at("99") };
  } finally {
    await Deno.remove(script);
  }
}

const luaKey = `string.format("%08d", key)`;
/** Eight digits in base64, as both servers read them in JSON. */
const luaBase64Key = `(function(d)
    local b = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    local s = ""
    for i = 1, 9, 3 do
      local x, y, z = d:byte(i, i + 2)
      local n = x * 65536 + (y or 0) * 256 + (z or 0)
      local function c(k) return b:sub(k + 1, k + 1) end
      s = s .. c(math.floor(n / 262144)) .. c(math.floor(n / 4096) % 64)
        .. (y and c(math.floor(n / 64) % 64) or "=") .. (z and c(n % 64) or "=")
    end
    return s
  end)(${luaKey})`;

/** A put of a value of so many bytes, in etcd's JSON. */
export function jsonPut(valueBytes: number): Pick<Load, "path" | "body" | "contentType"> {
  const value = btoa("v".repeat(valueBytes));
  return {
    path: "/v3/kv/put",
    contentType: "application/json",
    body: `'{"key":"' .. ${luaBase64Key} .. '","value":"${value}"}'`,
  };
}

/** A read of one key, in etcd's JSON. */
export function jsonRange(serializable: boolean): Pick<Load, "path" | "body" | "contentType"> {
  const more = serializable ? `,"serializable":true` : "";
  return {
    path: "/v3/kv/range",
    contentType: "application/json",
    body: `'{"key":"' .. ${luaBase64Key} .. '"${more}}'`,
  };
}

/** A put as one binary message of the Connect protocol: fields 1 and 2 of a PutRequest. */
export function binaryPut(valueBytes: number): Pick<Load, "path" | "body" | "contentType"> {
  const length = valueBytes < 128
    ? `string.char(${valueBytes})`
    : `string.char(${(valueBytes % 128) + 128}, ${Math.floor(valueBytes / 128)})`;
  return {
    path: "/ultracloud.chainfire.v1.KvService/Put",
    contentType: "application/proto",
    body: `string.char(10, 8) .. ${luaKey} .. string.char(18) .. ${length} .. string.rep("v", ${valueBytes})`,
  };
}

/** Puts over gRPC as etcd's own clients send them: streams of one connection each, one fixed key. */
export async function driveGrpc(
  url: string,
  options: {
    readonly connections: number;
    readonly streams: number;
    readonly seconds: number;
    readonly valueBytes: number;
  },
): Promise<number> {
  const { connections, streams, seconds, valueBytes } = options;
  const value = new TextEncoder().encode("v".repeat(valueBytes));
  const message = [10, 8, ...new TextEncoder().encode("00000007"), 18, ...varint(valueBytes), ...value];
  const frame = new Uint8Array(5 + message.length);
  new DataView(frame.buffer).setUint32(1, message.length);
  frame.set(message, 5);
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeFile(file, frame);
    const args = [
      `-D${seconds}`,
      "-t1",
      `-c${connections}`,
      `-m${streams}`,
      "-d",
      file,
      "-H",
      "content-type: application/grpc",
      "-H",
      "te: trailers",
      `${url}/etcdserverpb.KV/Put`,
    ];
    const { stdout, success } = await new Deno.Command("h2load", { args, stderr: "null" }).output();
    const text = new TextDecoder().decode(stdout);
    const rate = /finished in [\d.]+s, ([\d.]+) req\/s/.exec(text);
    if (!success || !rate) throw fault("internal", "bench_failed", `Cannot use what h2load says: ${text}`);
    return Number(rate[1]);
  } finally {
    await Deno.remove(file);
  }
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, Math.floor(value / 128)];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

/** Resident memory of a process in MB. */
export function residentMb(pid: number): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1] ?? NaN) / 1024;
}

/** True when a program is on the machine. */
export function installed(program: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(":").some((dir) => {
    try {
      return Deno.statSync(`${dir}/${program}`).isFile;
    } catch {
      return false;
    }
  });
}

/** One row of a table: the first column to the left, the others to the right. */
export function row(cells: readonly (string | number)[], widths: readonly number[]): string {
  return cells.map((cell, i) => i === 0 ? String(cell).padEnd(widths[i]!) : String(cell).padStart(widths[i]!)).join("");
}
