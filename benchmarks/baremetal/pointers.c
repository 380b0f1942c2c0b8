/* Pointer chasing: an unbalanced binary tree, then a hash map with chains. */
#include "kernel.h"

enum { COUNT = 60000, LOOKUPS = 600000, BUCKETS = 1 << 14 };

struct node { struct node *left, *right, *next; uint64_t key, value; };

static struct node nodes[COUNT];
static struct node *root, *buckets[BUCKETS];

static void insert(struct node *node)
{
    struct node **at = &root;
    while (*at)
        at = node->key < (*at)->key ? &(*at)->left : &(*at)->right;
    *at = node;
    struct node **bucket = &buckets[node->key * 0x9e3779b97f4a7c15u >> 50];
    node->next = *bucket;
    *bucket = node;
}

uint64_t kernel(void)
{
    uint64_t random = 5, sum = 0;
    root = NULL;
    for (int i = 0; i < BUCKETS; i++)
        buckets[i] = NULL;
    for (int i = 0; i < COUNT; i++) {
        nodes[i].left = nodes[i].right = NULL;
        nodes[i].key = next_random(&random) >> 24;
        nodes[i].value = (uint64_t)i;
        insert(&nodes[i]);
    }
    for (int i = 0; i < LOOKUPS; i++) {
        uint64_t key = nodes[next_random(&random) % COUNT].key + (i & 1);
        const struct node *at = root;
        while (at && at->key != key)
            at = key < at->key ? at->left : at->right;
        sum = mix(sum, at ? at->value : 1);
        for (at = buckets[key * 0x9e3779b97f4a7c15u >> 50]; at && at->key != key; at = at->next)
            ;
        sum = mix(sum, at ? at->value : 2);
    }
    return sum;
}
