import { keyScope } from "@ultracloud/authz";
import type {
  Compare,
  DeleteRangeRequest,
  PutRequest,
  RangeRequest,
  RequestOp,
  TxnRequest,
  WatchCreate,
} from "@ultracloud/proto/chainfire/v1";
import type { Need } from "@ultracloud/rpc";
import { contestPrefix } from "./contest/contests.ts";
import { prefixRange } from "./domain/namespaces.ts";

/** A request about one key or a range of them. */
type Ranged = Pick<RangeRequest | Compare | WatchCreate, "key" | "rangeEnd">;

const get = (scope: string): Need => ({ resource: "kv", action: "get", scope });

export const rangeScope = ({ key, rangeEnd }: Ranged): string => keyScope(key, rangeEnd);

/** Whoever is told what was there before reads it. */
export const alsoPut = ({ key, prevKv }: PutRequest): readonly Need[] => prevKv ? [get(keyScope(key))] : [];

export const alsoDelete = (request: DeleteRangeRequest): readonly Need[] =>
  request.prevKv ? [get(rangeScope(request))] : [];

/** What every comparison and every operation of both branches needs, also of transactions within. */
export function alsoTxn({ compare, success, failure }: TxnRequest): readonly Need[] {
  return [...compare.map((each) => get(rangeScope(each))), ...[...success, ...failure].flatMap(alsoOp)];
}

function alsoOp({ request }: RequestOp): readonly Need[] {
  switch (request.case) {
    case "range":
      return [get(rangeScope(request.value))];
    case "put":
      return [{ resource: "kv", action: "update", scope: keyScope(request.value.key) }, ...alsoPut(request.value)];
    case "deleteRange":
      return [{ resource: "kv", action: "delete", scope: rangeScope(request.value) }, ...alsoDelete(request.value)];
    case "txn":
      return alsoTxn(request.value);
    case undefined:
      return [];
  }
}

export const alsoWatches = ({ watches }: { readonly watches: readonly WatchCreate[] }): readonly Need[] =>
  watches.map((each) => ({ resource: "watch", action: "get", scope: rangeScope(each) }));

/** Every key that a lock or an election of the name may have. */
export function contestScope({ name }: { readonly name: Uint8Array }): string {
  const { key, end } = prefixRange(contestPrefix(name));
  return keyScope(key, end);
}
