#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATABASE_MAX = 1 << 20, GROUPS_MAX = 1024 };

/* A file of which the first DATABASE_MAX bytes count. All zero at first, so it costs nothing until a child reads it. */
struct database {
    size_t size;
    bool loaded;
    char text[DATABASE_MAX];
};

struct text {
    const char *at;
    size_t len;
};

static struct database passwd, group;

/* A FIFO, a device or a missing file counts as empty; O_NONBLOCK so that opening a FIFO returns. */
static void load(struct database *db)
{
    if (db->loaded)
        return;
    db->loaded = true;
    int fd = open(db == &passwd ? "/etc/passwd" : "/etc/group", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t n;
        while (db->size < DATABASE_MAX && (n = read(fd, db->text + db->size, DATABASE_MAX - db->size)) > 0)
            db->size += (size_t)n;
    }
    close(fd);
}

static struct text cut(struct text *rest, char separator)
{
    const char *end = rest->len ? memchr(rest->at, separator, rest->len) : NULL;
    struct text head = {rest->at, end ? (size_t)(end - rest->at) : rest->len};
    size_t skip = head.len + (end != NULL);
    rest->at += skip;
    rest->len -= skip;
    return head;
}

static bool same(struct text a, struct text b)
{
    return a.len == b.len && memcmp(a.at, b.at, a.len) == 0;
}

static bool number(struct text t, uint32_t *out)
{
    uint64_t value = 0;
    if (!t.len || t.len > 10)
        return false;
    for (size_t i = 0; i < t.len; i++) {
        if (t.at[i] < '0' || t.at[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(t.at[i] - '0');
    }
    *out = (uint32_t)value;
    return value < UINT32_MAX; /* (uint32_t)-1 means "leave as it is" to setresuid */
}

/* The next line that has at least `n` fields, split; lines are `a:b:c:…`. */
static bool next_line(struct text *rest, struct text *fields, size_t n)
{
    while (rest->len) {
        struct text line = cut(rest, '\n');
        size_t i = 0;
        for (; i < n && line.len; i++)
            fields[i] = cut(&line, ':');
        for (size_t missing = i; missing < n; missing++)
            fields[missing] = (struct text){"", 0};
        if (i > 2 && fields[0].len)
            return true;
    }
    return false;
}

static void store(char *out, size_t size, struct text t, const char *fallback)
{
    if (!t.len || t.len >= size || memchr(t.at, 0, t.len))
        t = (struct text){fallback, strlen(fallback)};
    memcpy(out, t.at, t.len);
    out[t.len] = 0;
}

static void fill(struct user *user, uint32_t uid, uint32_t gid, struct text name, struct text home, struct text shell)
{
    user->uid = uid;
    user->gid = gid;
    store(user->name, sizeof user->name, name, uid ? "user" : "root");
    store(user->home, sizeof user->home, home, "/");
    store(user->shell, sizeof user->shell, shell, "/bin/sh");
}

/* Images without /etc/passwd still have root, and a number needs no entry (as `docker run --user`). */
static int without_entry(struct text who, struct user *user)
{
    uint32_t uid;
    if (same(who, (struct text){"root", 4}))
        uid = 0;
    else if (!number(who, &uid))
        return ESRCH;
    const char *home = uid ? "/" : "/root";
    fill(user, uid, 0, uid ? who : (struct text){"root", 4}, (struct text){home, strlen(home)}, (struct text){"", 0});
    return 0;
}

int user_find(const char *who, size_t len, struct user *user)
{
    struct text wanted = len ? (struct text){who, len} : (struct text){"root", 4}, f[7];
    uint32_t uid, gid, wanted_uid = 0;
    bool by_number = number(wanted, &wanted_uid);

    load(&passwd);
    struct text rest = {passwd.text, passwd.size};
    while (next_line(&rest, f, 7)) {
        if (!number(f[2], &uid) || !number(f[3], &gid))
            continue;
        if (same(f[0], wanted) || (by_number && uid == wanted_uid)) {
            fill(user, uid, gid, f[0], f[5], f[6]);
            return 0;
        }
    }
    return without_entry(wanted, user);
}

static bool lists(struct text members, struct text name)
{
    while (members.len)
        if (same(cut(&members, ','), name))
            return true;
    return false;
}

static int join_groups(const struct user *user)
{
    gid_t gids[GROUPS_MAX];
    size_t n = 0;
    uint32_t gid;
    struct text f[4], name = {user->name, strlen(user->name)};

    gids[n++] = user->gid;
    load(&group);
    struct text rest = {group.text, group.size};
    while (n < GROUPS_MAX && next_line(&rest, f, 4))
        if (number(f[2], &gid) && gid != user->gid && lists(f[3], name))
            gids[n++] = gid;
    return setgroups(n, gids) ? errno : 0;
}

int user_become(const struct user *user)
{
    int error = join_groups(user);
    if (error)
        return error;
    if (setresgid(user->gid, user->gid, user->gid) || setresuid(user->uid, user->uid, user->uid))
        return errno;
    umask(022);
    return 0;
}

static void name_of(struct database *db, uint32_t id, char out[32])
{
    struct text f[3];
    uint32_t candidate;

    load(db);
    struct text rest = {db->text, db->size};
    while (next_line(&rest, f, 3))
        if (number(f[2], &candidate) && candidate == id && f[0].len < 32) {
            store(out, 32, f[0], "");
            return;
        }
    snprintf(out, 32, "%u", id);
}

/* A listing asks for the same few ids over and over: the last answer is kept. */
const char *user_name(uint32_t uid)
{
    static char name[32];
    static uint32_t last;
    if (!name[0] || last != uid)
        name_of(&passwd, last = uid, name);
    return name;
}

const char *group_name(uint32_t gid)
{
    static char name[32];
    static uint32_t last;
    if (!name[0] || last != gid)
        name_of(&group, last = gid, name);
    return name;
}

int group_find(const char *who, size_t len, uint32_t *gid)
{
    struct text f[3], wanted = {who, len};

    load(&group);
    struct text rest = {group.text, group.size};
    while (next_line(&rest, f, 3))
        if (same(f[0], wanted) && number(f[2], gid))
            return 0;
    return number(wanted, gid) ? 0 : ESRCH;
}

/* Appends the components of `path` to the absolute path in `out`; `.` and empty ones vanish, `..` takes one away. */
static int append(char out[PATH_MAX], size_t *used, struct text path)
{
    while (path.len) {
        struct text part = cut(&path, '/');
        if (!part.len || same(part, (struct text){".", 1}))
            continue;
        if (same(part, (struct text){"..", 2})) {
            while (*used && out[--*used] != '/')
                ;
            continue;
        }
        if (*used + 1 + part.len >= PATH_MAX)
            return ENAMETOOLONG;
        out[(*used)++] = '/';
        memcpy(out + *used, part.at, part.len);
        *used += part.len;
    }
    return 0;
}

int user_path(const struct user *user, const char *path, size_t len, char out[PATH_MAX])
{
    struct text given = {path, len};
    size_t used = 0;
    int error = 0;

    if (len && memchr(path, 0, len))
        return EINVAL;
    bool tilde = len && path[0] == '~' && (len == 1 || path[1] == '/');
    if (tilde)
        cut(&given, '/');
    if (tilde || !len || path[0] != '/')
        error = append(out, &used, (struct text){user->home, strlen(user->home)});
    if (!error)
        error = append(out, &used, given);
    if (!used)
        out[used++] = '/';
    out[used] = 0;
    return error;
}
