#include "sudo_client.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: sudo [-bEHknSs] [-u user] [-g group] [-D directory] [--preserve-env=list] [NAME=value] [-i | -s] [command]\n"
    "       sudo -l | -v | -k | -K | -V\n"
    "Runs a command as another user of this sandbox, root unless -u names one. No password is asked for.\n";

enum { CHOICE_PRESERVE = 256, CHOICE_HELP, CHOICE_IGNORED };

static const struct option choices[] = {
    {"askpass", no_argument, NULL, CHOICE_IGNORED},
    {"background", no_argument, NULL, 'b'},
    {"chdir", required_argument, NULL, 'D'},
    {"group", required_argument, NULL, 'g'},
    {"help", no_argument, NULL, CHOICE_HELP},
    {"list", no_argument, NULL, 'l'},
    {"login", no_argument, NULL, 'i'},
    {"non-interactive", no_argument, NULL, 'n'},
    {"preserve-env", optional_argument, NULL, CHOICE_PRESERVE},
    {"preserve-groups", no_argument, NULL, CHOICE_IGNORED},
    {"prompt", required_argument, NULL, 'p'},
    {"remove-timestamp", no_argument, NULL, 'K'},
    {"reset-timestamp", no_argument, NULL, 'k'},
    {"set-home", no_argument, NULL, 'H'},
    {"shell", no_argument, NULL, 's'},
    {"stdin", no_argument, NULL, 'S'},
    {"user", required_argument, NULL, 'u'},
    {"validate", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

static int show(const char *text)
{
    fputs(text, stdout);
    return 0;
}

static int complain(const char *text)
{
    fputs(text, stderr);
    return 1;
}

/* -A, -n, -P, -p and -S are about passwords and groups that are as wished anyway. */
static int apply(int choice, struct sudo_options *o)
{
    switch (choice) {
    case 'b': o->background = true; break;
    case 'D': o->directory = optarg; break;
    case 'E': o->keep_environment = true; break;
    case CHOICE_PRESERVE: o->keep_names = optarg; o->keep_environment |= optarg == NULL; break;
    case 'g': o->group = optarg; break;
    case 'H': o->set_home = true; break;
    case 'i': o->login = true; break;
    case 'K': case 'k': o->forget = true; break;
    case 'l': o->list = true; break;
    case 's': o->shell = true; break;
    case 'u': o->user = optarg; break;
    case 'v': o->validate = true; break;
    case 'V': return show("cube-init sudo, takes the options of sudo 1.9\n");
    case 'h': case CHOICE_HELP: return show(usage);
    case '?': return complain(usage);
    }
    return -1;
}

/* NAME=value, where NAME is one. */
static bool assignment(const char *argument)
{
    size_t name = strcspn(argument, "=");
    return argument[name] == '=' && name > 0 && memchr(argument, '/', name) == NULL;
}

int sudo_options(int argc, char **argv, struct sudo_options *o)
{
    int choice, status = -1;
    *o = (struct sudo_options){.user = NULL};
    while (status < 0 && (choice = getopt_long(argc, argv, "+AbD:Eg:HhiKklnPp:SsVu:v", choices, NULL)) != -1)
        status = apply(choice, o);
    if (status >= 0)
        return status;
    o->assignments = argv + optind;
    while (optind < argc && assignment(argv[optind])) {
        optind++;
        o->n_assignments++;
    }
    o->command = argv + optind;
    if (o->login && o->shell)
        return complain("sudo: -i and -s cannot be used together\n");
    bool runs = o->command[0] || o->login || o->shell;
    if (runs || o->list || o->validate)
        return -1;
    return o->forget ? 0 : complain(usage);
}
