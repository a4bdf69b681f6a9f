/* The environment of a command under sudo: reset, but for what helps it to talk to people and to the network. */
#include "sudo_client.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "children.h"

/* The last two lines are not sudo's: a sandbox may reach the network through a proxy with a certificate authority of
 * its own only, and `sudo apt-get` or `sudo pip` must find both. */
static const char *const kept[] = {
    "TERM", "COLORTERM", "COLORS", "LS_COLORS", "DISPLAY", "XAUTHORITY", "HOSTNAME", "PS1", "PS2", "TZ",
    "LANG", "LANGUAGE", "LC_*", "EDITOR", "VISUAL", "SUDO_EDITOR", "DEBIAN_FRONTEND",
    "*_proxy", "*_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO",
};

struct list {
    char **items;
    size_t used, capacity;
};

static bool named(const char *variable, const char *name, size_t length)
{
    return strncmp(variable, name, length) == 0 && variable[length] == '=';
}

static void set(struct list *list, char *variable)
{
    size_t name = strcspn(variable, "=");
    for (size_t i = 0; i < list->used; i++)
        if (named(list->items[i], variable, name)) {
            list->items[i] = variable;
            return;
        }
    if (list->used < list->capacity)
        list->items[list->used++] = variable;
}

static void set_value(struct list *list, const char *name, const char *value)
{
    char *variable;
    if (asprintf(&variable, "%s=%s", name, value) >= 0)
        set(list, variable);
}

static void set_number(struct list *list, const char *name, uint32_t value)
{
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    set_value(list, name, text);
}

static bool always_kept(const char *variable)
{
    char name[64];
    size_t length = strcspn(variable, "=");
    if (length >= sizeof name)
        return false;
    memcpy(name, variable, length);
    name[length] = 0;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (fnmatch(kept[i], name, 0) == 0)
            return true;
    return false;
}

static bool asked_for(const char *variable, const char *names)
{
    while (names != NULL && *names) {
        size_t length = strcspn(names, ",");
        if (named(variable, names, length))
            return true;
        names += length + (names[length] == ',');
    }
    return false;
}

static void set_identity(struct list *env, const struct sudo_options *o, const struct user *target)
{
    if (!o->keep_environment || o->set_home || o->login)
        set_value(env, "HOME", target->home);
    set_value(env, "USER", target->name);
    set_value(env, "LOGNAME", target->name);
    if (!o->shell)
        set_value(env, "SHELL", target->shell);
    set(env, DEFAULT_PATH);
    char mail[sizeof target->name + 16];
    snprintf(mail, sizeof mail, "/var/mail/%s", target->name);
    set_value(env, "MAIL", mail);
}

char **sudo_environment(const struct sudo_options *o, const struct user *caller, const struct user *target,
                        const char *command)
{
    size_t given = 0;
    while (environ[given])
        given++;
    struct list env = {.capacity = given + o->n_assignments + 16};
    env.items = calloc(env.capacity + 1, sizeof *env.items);
    if (env.items == NULL)
        return NULL;
    for (size_t i = 0; i < given; i++)
        if (o->keep_environment || always_kept(environ[i]) || asked_for(environ[i], o->keep_names))
            set(&env, environ[i]);
    set_identity(&env, o, target);
    set_value(&env, "SUDO_COMMAND", command);
    set_value(&env, "SUDO_USER", caller->name);
    set_number(&env, "SUDO_UID", caller->uid);
    set_number(&env, "SUDO_GID", caller->gid);
    for (size_t i = 0; i < o->n_assignments; i++)
        set(&env, o->assignments[i]);
    return env.items;
}
