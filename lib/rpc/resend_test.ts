import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { OperationService } from "@ultracloud/proto/common/v1";
import { createRpcClient } from "./client.ts";

/** Answers the first request of the first connection, and ends every connection at the next request it has read. */
function breaking(): AsyncDisposable & { readonly url: string; readonly requests: number[] } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const requests: number[] = [];
  const serve = async (conn: Deno.Conn, first: boolean) => {
    using _conn = conn;
    const bytes = new Uint8Array(65_536);
    let text = "";
    for (let answered = !first;;) {
      const n = await conn.read(bytes).catch(() => null);
      if (n === null) return;
      text += new TextDecoder("latin1").decode(bytes.subarray(0, n));
      const length = /content-length: (\d+)\r\n/i.exec(text)?.[1];
      const head = text.indexOf("\r\n\r\n");
      const whole = head >= 0 &&
        (length === undefined ? text.endsWith("0\r\n\r\n") : text.length >= head + 4 + Number(length));
      if (!whole) continue;
      requests.push(requests.length);
      text = "";
      if (answered) return;
      answered = true;
      const answer = "HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 0\r\n\r\n";
      await conn.write(new TextEncoder().encode(answer));
    }
  };
  const serving: Promise<void>[] = [];
  const accepting = (async () => {
    for await (const conn of listener) serving.push(serve(conn, serving.length === 0));
  })();
  const { port } = listener.addr as Deno.NetAddr;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
      await Promise.all(serving);
    },
  };
}

Deno.test("a call that changes something leaves once, though the connection ends before its answer", async () => {
  await using callee = breaking();
  using client = createRpcClient(OperationService, { endpoints: [callee.url] });
  const request = { project: "a/b", id: "op_1" };
  await client.cancelOperation(request);
  assert.equal(callee.requests.length, 1);
  await assert.rejects(client.cancelOperation(request), (error) => {
    assert.ok(error instanceof Fault);
    assert.deepEqual([error.kind, error.code], ["unavailable", "connection_lost"]);
    return true;
  });
  assert.equal(callee.requests.length, 2, "the callee may have done it: nobody may send it again");
});
