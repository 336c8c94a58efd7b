import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type ExecuteRequest,
  type ExecuteResponseSchema,
  Level,
  NullSchema,
  type QueryRequest,
  type QueryResponseSchema,
  type Read,
  type ResultSetSchema,
  type Statement,
  type Value,
  type ValueSchema,
} from "@ultracloud/proto/flaredb/v1";
import { ProtoReader, ProtoWriter } from "@ultracloud/rpc";

type QueryAnswer = MessageInitShape<typeof QueryResponseSchema>;
type ExecuteAnswer = MessageInitShape<typeof ExecuteResponseSchema>;

const writer = new ProtoWriter();

/** Codecs of the statements that come one by one: protobuf-es takes longer over a look-up than SQLite over the row. */
export const queryCodec = { read: readQueryRequest, write: writeQueryResponse };
export const executeCodec = { read: readExecuteRequest, write: writeExecuteResponse };

export function writeExecuteResponse({ result, index }: ExecuteAnswer): Uint8Array<ArrayBuffer> {
  writer.begin();
  writeResult(result);
  writer.uint64(2, index);
  return writer.end();
}

export function writeQueryResponse({ result, index, reads, digest }: QueryAnswer): Uint8Array<ArrayBuffer> {
  writer.begin();
  writeResult(result);
  writer.uint64(2, index);
  if (reads !== undefined) {
    for (const { table, index } of reads) {
      const at = writer.open(3);
      if (table !== undefined && table !== "") writer.text(1, table);
      writer.uint64(2, index);
      writer.close(at);
    }
  }
  if (digest !== undefined && digest.length > 0) writer.bytes(4, digest);
  return writer.end();
}

/** Field 1 of every answer. */
function writeResult(result: MessageInitShape<typeof ResultSetSchema> | undefined): void {
  if (result === undefined) return;
  const start = writer.open(1);
  const { columns = [], types = [], rows = [], rowsAffected, lastInsertId, elapsedMs } = result;
  for (let i = 0; i < columns.length; i++) writer.text(1, columns[i]!);
  for (let i = 0; i < types.length; i++) writer.text(2, types[i]!);
  for (let i = 0; i < rows.length; i++) {
    const at = writer.open(3);
    const { values = [] } = rows[i]!;
    for (let j = 0; j < values.length; j++) {
      const one = writer.open(1);
      writeValue(values[j]!.kind);
      writer.close(one);
    }
    writer.close(at);
  }
  writer.int64(4, rowsAffected);
  writer.int64(5, lastInsertId);
  if (elapsedMs !== undefined && !Object.is(elapsedMs, 0)) writer.double(6, elapsedMs);
  writer.close(start);
}

function writeValue(kind: MessageInitShape<typeof ValueSchema>["kind"]): void {
  switch (kind?.case) {
    case "null":
      writer.close(writer.open(1));
      return;
    case "integer":
      writer.sint64(2, kind.value);
      return;
    case "real":
      writer.double(3, kind.value);
      return;
    case "text":
      writer.text(4, kind.value);
      return;
    case "blob":
      writer.bytes(5, kind.value);
      return;
  }
}

/** Where it is written the plain way; undefined for protobuf-es to read. */
export function readExecuteRequest(bytes: Uint8Array): ExecuteRequest | undefined {
  const reader = new ProtoReader(bytes);
  const request: ExecuteRequest = {
    $typeName: "ultracloud.flaredb.v1.ExecuteRequest",
    database: "",
    transaction: "",
  };
  while (reader.more) {
    switch (reader.uint()) {
      case 1 << 3 | 2:
        request.database = reader.name();
        break;
      case 2 << 3 | 2:
        // What comes twice is merged.
        if (request.statement !== undefined) return undefined;
        request.statement = readStatement(reader);
        break;
      default:
        return undefined;
    }
  }
  return reader.odd ? undefined : request;
}

/** Where it is written the plain way; undefined for protobuf-es to read. */
export function readQueryRequest(bytes: Uint8Array): QueryRequest | undefined {
  const reader = new ProtoReader(bytes);
  const request: QueryRequest = {
    $typeName: "ultracloud.flaredb.v1.QueryRequest",
    database: "",
    rowLimit: 0,
    transaction: "",
    digest: false,
  };
  while (reader.more) {
    switch (reader.uint()) {
      case 1 << 3 | 2:
        request.database = reader.name();
        break;
      case 2 << 3 | 2:
        // What comes twice is merged.
        if (request.statement !== undefined) return undefined;
        request.statement = readStatement(reader);
        break;
      case 3 << 3 | 2:
        if (request.read !== undefined) return undefined;
        request.read = readLevel(reader);
        break;
      case 4 << 3:
        request.rowLimit = reader.uint();
        break;
      case 6 << 3:
        request.digest = reader.uint() !== 0;
        break;
      default:
        return undefined;
    }
  }
  return reader.odd ? undefined : request;
}

function readLevel(reader: ProtoReader): Read {
  const read: Read = { $typeName: "ultracloud.flaredb.v1.Read", level: Level.UNSPECIFIED, maxAgeMs: 0n, atIndex: 0n };
  const outer = reader.enter();
  while (reader.more) {
    switch (reader.uint()) {
      case 1 << 3:
        read.level = reader.uint();
        break;
      case 2 << 3:
        read.maxAgeMs = BigInt(reader.uint());
        break;
      default:
        reader.odd = true;
    }
  }
  reader.leave(outer);
  return read;
}

/** Parameters by name are odd. */
function readStatement(reader: ProtoReader): Statement {
  const statement: Statement = { $typeName: "ultracloud.flaredb.v1.Statement", sql: "", positional: [], named: {} };
  const outer = reader.enter();
  while (reader.more) {
    switch (reader.uint()) {
      case 1 << 3 | 2:
        statement.sql = reader.name();
        break;
      case 2 << 3 | 2:
        statement.positional.push(readValue(reader));
        break;
      default:
        reader.odd = true;
    }
  }
  reader.leave(outer);
  return statement;
}

function readValue(reader: ProtoReader): Value {
  const outer = reader.enter();
  let kind: Value["kind"] = { case: undefined };
  while (reader.more) {
    switch (reader.uint()) {
      case 1 << 3 | 2:
        if (reader.until() !== reader.at) reader.odd = true;
        kind = { case: "null", value: create(NullSchema) };
        break;
      case 2 << 3:
        kind = { case: "integer", value: reader.sint64() };
        break;
      case 3 << 3 | 1:
        kind = { case: "real", value: reader.double() };
        break;
      case 4 << 3 | 2:
        kind = { case: "text", value: reader.text() };
        break;
      case 5 << 3 | 2:
        kind = { case: "blob", value: reader.blob() };
        break;
      default:
        reader.odd = true;
    }
  }
  reader.leave(outer);
  return { $typeName: "ultracloud.flaredb.v1.Value", kind };
}
