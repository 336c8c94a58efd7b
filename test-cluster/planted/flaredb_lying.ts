/** flaredb with a planted fault: its disk says "durable" before anything is written. */
import { systemDisk } from "@ultracloud/wal";
import { volatileDisk } from "./volatile_disk.ts";

Object.assign(systemDisk, volatileDisk({ ...systemDisk }, { lying: true }));
await import("../../services/flaredb/main.ts");
