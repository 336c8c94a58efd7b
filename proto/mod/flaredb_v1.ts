export * from "../gen/ultracloud/flaredb/v1/flaredb_pb.ts";
export * from "../gen/ultracloud/flaredb/v1/backup_pb.ts";
export * from "../gen/ultracloud/flaredb/v1/webhook_pb.ts";
