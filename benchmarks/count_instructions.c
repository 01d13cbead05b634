/* A qemu plugin that counts the instructions that a program executes and prints
 * "INSTRUCTIONS n" to stderr when it ends. The declarations are those of qemu-plugin.h, version 1.
 * build: gcc -shared -fPIC -o count_instructions.so count_instructions.c
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
typedef uint64_t plugin_id;
struct qemu_plugin_tb;
typedef struct qemu_info_t qemu_info_t;
enum { ADD_U64 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = 1;
static uint64_t executed;

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t length = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed, length);
}

static void ended(plugin_id id, void *unused) {
    fprintf(stderr, "INSTRUCTIONS %llu\n", (unsigned long long)executed);
}

EXPORT int qemu_plugin_install(plugin_id id, const qemu_info_t *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
