import type { Database } from "@ultracloud/sqlite";
import { membersCountMax } from "../domain/limits.ts";
import type { Alarm, AlarmType, MemberInfo } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import type { Counters } from "./schema.ts";

/** Raised alarms: at most one of a type for each member. */
export class Alarms {
  readonly #db: Database;
  #all: readonly Alarm[] = [];

  constructor(db: Database) {
    this.#db = db;
    this.reload();
  }

  reload(): void {
    const rows = this.#db.all<{ member: number; type: AlarmType }>(
      "SELECT member, type FROM alarm ORDER BY member, type",
    );
    this.#all = rows.map(({ member, type }) => ({ member, type }));
  }

  list(): readonly Alarm[] {
    return this.#all;
  }

  has(type: AlarmType, member?: number): boolean {
    return this.#all.some((alarm) => alarm.type === type && (member === undefined || alarm.member === member));
  }

  raise({ member, type }: Alarm): void {
    this.#db.run("INSERT OR IGNORE INTO alarm(member, type) VALUES(?, ?)", member, type);
    this.reload();
  }

  clear({ member, type }: Alarm): void {
    this.#db.run("DELETE FROM alarm WHERE member = ? AND type = ?", member, type);
    this.reload();
  }
}

/** Where the members are reached. An id that was given is never given again. */
export class Members {
  readonly #db: Database;
  readonly #counters: Counters;
  #all: ReadonlyMap<number, MemberInfo> = new Map();
  #promoting: ReadonlySet<number> = new Set();

  constructor(db: Database, counters: Counters) {
    this.#db = db;
    this.#counters = counters;
    this.reload();
  }

  reload(): void {
    const rows = this.#db.all<{ id: number; name: string; peer_url: string; client_url: string }>(
      "SELECT id, name, peer_url, client_url FROM member ORDER BY id",
    );
    this.#all = new Map(rows.map((row) => [row.id, {
      id: row.id,
      name: row.name,
      peerUrl: row.peer_url,
      clientUrl: row.client_url,
    }]));
    const promoting = this.#db.all<{ member: number }>("SELECT member FROM promotion");
    this.#promoting = new Set(promoting.map(({ member }) => member));
  }

  all(): ReadonlyMap<number, MemberInfo> {
    return this.#all;
  }

  /** Members that get their vote by themselves. */
  get promoting(): ReadonlySet<number> {
    return this.#promoting;
  }

  awaitPromotion(id: number): void {
    if (!this.#all.has(id)) throw rejections.memberNotFound(id);
    this.#db.run("INSERT OR IGNORE INTO promotion(member) VALUES(?)", id);
    this.reload();
  }

  /** The smallest id that no member ever had. */
  get nextId(): number {
    return this.#counters.memberLast + 1;
  }

  add(member: MemberInfo): void {
    const { id } = member;
    if (id <= this.#counters.memberLast) throw rejections.memberIdUsed(id);
    if (this.#all.size >= membersCountMax) throw rejections.tooManyMembers(membersCountMax);
    this.#counters.memberLast = id;
    this.#write(member);
  }

  update(member: MemberInfo): void {
    if (!this.#all.has(member.id)) throw rejections.memberNotFound(member.id);
    this.#write(member);
  }

  #write({ id, name, peerUrl, clientUrl }: MemberInfo): void {
    this.#db.run(
      "INSERT OR REPLACE INTO member(id, name, peer_url, client_url) VALUES(?, ?, ?, ?)",
      id,
      name,
      peerUrl,
      clientUrl,
    );
    this.reload();
  }

  remove(id: number): void {
    if (!this.#all.has(id)) throw rejections.memberNotFound(id);
    this.#db.run("DELETE FROM member WHERE id = ?", id);
    this.#db.run("DELETE FROM promotion WHERE member = ?", id);
    this.reload();
  }
}
