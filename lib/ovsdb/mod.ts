/**
 * A client of OVSDB (RFC 7047 and the `monitor_cond_since` extension of ovsdb-server(7)): one database, a replica of
 * the tables asked for that survives reconnects, transactions and locks.
 */
export { type Endpoint, endpointText, JsonRpc, type JsonRpcOptions, parseEndpoint } from "./json_rpc.ts";
export { type LockHandle, openOvsdb, type OvsdbClient, type OvsdbDeps, type OvsdbOptions } from "./client.ts";
export { assertLock, type Operation, type OperationResult, type TransactOptions } from "./operations.ts";
export { Replica, type Row, type TableRows } from "./replica.ts";
export { type ColumnType, parseSchema, type Schema, type TableSchema } from "./schema.ts";
export {
  type Atom,
  atomsOf,
  canonical,
  entriesOf,
  map,
  namedUuid,
  sameValue,
  set,
  uuid,
  uuidOf,
  type Value,
} from "./values.ts";
