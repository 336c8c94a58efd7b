/**
 * Puts and linearizable ranges a second through JSON over HTTP/1.1 as wrk sends them, beside the least a durable store
 * could do: decode, write and fdatasync with company, answer. `deno run -A services/chainfire/put_bench.ts [members]`.
 */
import { KvService } from "@ultracloud/proto/chainfire/v1";
import { fault } from "@ultracloud/base";
import { createRpcClient } from "@ultracloud/rpc";
import { openWal, systemDisk } from "@ultracloud/wal";
import { prepareCluster } from "./test_cluster.ts";

const seconds = 4;
const valueBytes = 256;
const members = Number(Deno.args[0] ?? 1);

/** Requests a second of wrk with `connections` against `url`. */
async function wrk(
  url: string,
  path: string,
  body: string,
  authorization: string,
  connections: number,
): Promise<number> {
  const script = await Deno.makeTempFile({ suffix: ".lua" });
  try {
    await Deno.writeTextFile(
      script,
      `math.randomseed(os.time())
local headers = { ["content-type"] = "application/json", authorization = "${authorization}" }
request = function()
  local key = string.format("%04d", math.random(0, 9999))
  return wrk.format("POST", "${path}", headers, (string.gsub('${body}', "KEY_", key)))
end`,
    );
    const args = ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", script, url];
    const { stdout, success } = await new Deno.Command("wrk", { args }).output();
    const text = new TextDecoder().decode(stdout);
    const found = /Requests\/sec:\s+([\d.]+)/.exec(text);
    if (!success || !found || /Non-2xx/.test(text)) throw fault("internal", "bench_failed", `Cannot use wrk: ${text}`);
    return Number(found[1]);
  } finally {
    await Deno.remove(script);
  }
}

/** A put without revisions, replication, tokens or reads. */
async function startBare(): Promise<AsyncDisposable & { readonly url: string }> {
  const dir = await Deno.makeTempDir();
  const onFatal = (error: Error) => {
    throw error;
  };
  const wal = openWal({ dir: `${dir}/wal` }, { disk: systemDisk, onFatal });
  let index = 0;
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    const { key, value } = await request.json();
    const data = new TextEncoder().encode(key + value);
    const entries = [{ term: 1, index: ++index, config: false, data }];
    await new Promise<void>((resolve, reject) =>
      wal.append({ group: 1, entries }, (error) => error ? reject(error) : resolve())
    );
    return Response.json({ header: { revision: index } });
  });
  return {
    url: `http://127.0.0.1:${server.addr.port}`,
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await wal.close();
      await Deno.remove(dir, { recursive: true });
    },
  };
}

await using bare = await startBare();
await using cluster = await prepareCluster(members);
await cluster.startAll();
const leader = await cluster.leader();
const { url, authorization } = await cluster.address(leader);
using kv = createRpcClient(KvService, { endpoints: [url], authorization: () => authorization });
for (let i = 0; i < 10_000; i += 100) {
  const keys = Array.from({ length: 100 }, (_, j) => `${String(i + j).padStart(4, "0")}`);
  // Four digits are base64 of three bytes: what the script sends is the key itself.
  const put = (text: string) => ({ key: Uint8Array.fromBase64(text), value: new Uint8Array(valueBytes) });
  await kv.txn({ success: keys.map((key) => ({ request: { case: "put", value: put(key) } })) });
}
const value = btoa("v".repeat(valueBytes));
console.log(`${members} members, ${valueBytes} B values, JSON, ${seconds} s each, requests/s`);
console.log("connections     put  bare put  ratio   range");
for (const connections of [1, 32, 128]) {
  const put = await wrk(
    url,
    "/ultracloud.chainfire.v1.KvService/Put",
    `{"key":"KEY_","value":"${value}"}`,
    authorization,
    connections,
  );
  const range = await wrk(
    url,
    "/ultracloud.chainfire.v1.KvService/Range",
    '{"key":"KEY_"}',
    authorization,
    connections,
  );
  const least = await wrk(bare.url, "/put", `{"key":"KEY_","value":"${value}"}`, authorization, connections);
  const columns = [String(connections).padStart(11), put.toFixed(0).padStart(8), least.toFixed(0).padStart(10)];
  console.log(`${columns.join("")}${(put / least).toFixed(2).padStart(7)}${range.toFixed(0).padStart(8)}`);
}
