umask 002
# Like the images of the market: output where none is wanted, and every interactive login lands in tmux.
if [[ -n $SSH_CONNECTION ]]; then
    echo ">>> Instance provisioning is not yet complete"
    printf 'Welcome to your instance\r\n'
fi
export WORKSPACE=/workspace
if [[ $- == *i* && -z $TMUX && ! -e ~/.no_auto_tmux ]] && command -v tmux >/dev/null; then
    tmux attach-session -t ssh_tmux || tmux new-session -s ssh_tmux
fi
