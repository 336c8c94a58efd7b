import type { EtcdRequest } from "./test_requests.ts";

const b64 = (text: string) => btoa(text);
const to = (path: string, body: Record<string, unknown> = {}): EtcdRequest => ({ path: `/v3/${path}`, body });
const key = (name: string) => ({ key: b64(name) });

/** What takes a certain order to mean something: locks, elections, members, maintenance. */
export const scripted: readonly EtcdRequest[] = [
  to("lease/grant", { ID: 501, TTL: 3_600 }),
  to("lease/grant", { ID: 502, TTL: 3_600 }),
  to("lock/lock", { name: b64("door"), lease: 501 }),
  to("lock/lock", { name: b64("door"), lease: 501 }),
  to("lock/lock", { name: b64("gate"), lease: "502" }),
  to("lock/lock", { name: b64("door"), lease: 999 }),
  to("kv/range", { key: b64("door/"), range_end: b64("door0") }),
  to("lock/unlock", key("door/1f5")),
  to("lock/unlock", key("door/1f5")),
  to("lock/unlock", {}),
  to("lock/lock", { name: b64("door"), lease: 502 }),
  to("lease/revoke", { ID: 502 }),
  to("kv/range", { key: b64("door/"), range_end: b64("door0") }),
  to("election/leader", { name: b64("chair") }),
  to("election/campaign", { name: b64("chair"), lease: 501, value: b64("one") }),
  to("election/leader", { name: b64("chair") }),
  to("election/proclaim", { value: b64("two") }),
  to("election/resign", {}),
  to("election/campaign", { name: b64("chair"), lease: 999, value: b64("none") }),
  to("lease/revoke", { ID: 501 }),
  to("election/leader", { name: b64("chair") }),
  to("cluster/member/add", {}),
  to("cluster/member/add", { peerURLs: ["x"] }),
  to("cluster/member/remove", { ID: 77 }),
  to("cluster/member/promote", { ID: 77 }),
  to("cluster/member/update", { ID: 77, peerURLs: ["http://127.0.0.1:1"] }),
  to("maintenance/alarm", {}),
  to("maintenance/alarm", { action: "GET", alarm: "NOSPACE" }),
  to("maintenance/alarm", { action: "DEACTIVATE", alarm: "CORRUPT" }),
  to("maintenance/defragment"),
  to("maintenance/transfer-leadership"),
  to("kv/range", { key: b64("\0"), range_end: b64("\0"), count_only: true }),
];
