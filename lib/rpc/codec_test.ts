import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { GetOperationRequestSchema, OperationSchema, OperationService } from "@ultracloud/proto/common/v1";
import assert from "node:assert/strict";
import { startFixture } from "./_fixture.ts";
import { ProtoReader, ProtoWriter } from "./mod.ts";
import type { Codecs } from "./types.ts";

const writer = new ProtoWriter();
let read = 0;
/** Reads requests that consist of an id alone; answers nothing but the id and the kind. */
const codecs: Codecs<typeof OperationService> = {
  getOperation: {
    read(bytes) {
      const reader = new ProtoReader(bytes);
      if (reader.uint() !== (GetOperationRequestSchema.field.id.number << 3 | 2)) return undefined;
      const id = reader.text();
      if (reader.odd || reader.more) return undefined;
      read++;
      return create(GetOperationRequestSchema, { id });
    },
    write({ id = "", kind = "" }) {
      writer.begin();
      writer.text(OperationSchema.field.id.number, id);
      writer.text(OperationSchema.field.kind.number, kind);
      return writer.end();
    },
  },
};
const fixture = () =>
  startFixture({}, {}, {
    operation: { getOperation: ({ id }, { received }) => ({ id, kind: `${received?.bytes.length} bytes`, step: "s" }) },
    codecs,
  });
const path = "/ultracloud.common.v1.OperationService/GetOperation";
const call = async (url: string, type: string, body: BodyInit) => {
  const headers = { "content-type": type, authorization: "Bearer alice", "accept-encoding": "gzip" };
  const response = await fetch(url + path, { method: "POST", headers, body });
  return { status: response.status, bytes: await response.bytes() };
};
const asked = (id: string, project = "") =>
  toBinary(GetOperationRequestSchema, create(GetOperationRequestSchema, { id, project })) as Uint8Array<ArrayBuffer>;

Deno.test("a codec reads and writes the binary form of its method, and leaves to protobuf-es what it does not know", async () => {
  await using server = await fixture();
  read = 0;
  const answered = async (body: Uint8Array<ArrayBuffer>) => {
    const { status, bytes } = await call(server.url, "application/proto", body);
    assert.equal(status, 200);
    return fromBinary(OperationSchema, bytes);
  };
  const alone = await answered(asked("op_1"));
  assert.deepEqual([alone.id, alone.kind, alone.step, read], ["op_1", "6 bytes", "", 1]);
  const other = await answered(asked("op_1", "acme/prod"));
  assert.deepEqual([other.id, other.kind, read], ["op_1", "17 bytes", 1]);
  const refused = await call(
    server.url,
    "application/proto",
    Uint8Array.of(OperationSchema.field.id.number << 3 | 2, 9),
  );
  assert.equal(refused.status, 400);
  assert.match(new TextDecoder().decode(refused.bytes), /bad_message/);
  const json = await call(server.url, "application/json", '{"id":"op_1"}');
  assert.deepEqual(JSON.parse(new TextDecoder().decode(json.bytes)).step, "s");
});

Deno.test("answers that a codec writes into the same memory do not mix, compressed or not", async () => {
  await using server = await fixture();
  const ids = Array.from({ length: 60 }, (_, i) => String.fromCharCode(97 + i % 26).repeat(i % 2 === 0 ? 5_000 : 50));
  const answers = await Promise.all(ids.map((id) => call(server.url, "application/proto", asked(id))));
  assert.deepEqual(answers.map(({ bytes }) => fromBinary(OperationSchema, bytes).id), ids);
});
