"""python train.py experiment=ict_cifar10: train, resume, sweep. configs/train.yaml lists the choices."""

from consistency.train import main

if __name__ == "__main__":
    main()
